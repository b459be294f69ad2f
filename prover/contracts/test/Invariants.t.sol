// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardDistributor} from "../src/RewardDistributor.sol";
import {DistributorTest} from "./DistributorTest.sol";
import {vm} from "./Vm.sol";

/// Drives a distributor at random, as anyone could: funds it, posts, claims, disables, waits. What should be
/// refused must be, and what should be paid must be.
contract Handler is DistributorTest {
    uint256[3][] private leaves; // of every root posted, by index
    bytes32[][] private trees;
    uint64 private nextEpoch;
    uint256 public funded = FUNDS;
    uint256 public highestTotal;

    constructor() {
        setUp();
    }

    function target() external view returns (RewardDistributor) {
        return distributor;
    }

    function fund(uint32 amount) external {
        amount %= 600_000; // about what a root adds, so that funds run out now and then
        token.mint(address(distributor), amount);
        funded += amount;
    }

    function wait(uint16 time) external {
        vm.warp(block.timestamp + time);
    }

    /// An honest root: no leaf below the last live root's, nor below what was paid. It ends with a new epoch,
    /// or with that of a disabled root in its next revision.
    function postNext(uint24[3] memory earned, bool again) external {
        uint256[3] memory amounts = bases();
        uint256 total = 0;
        for (uint256 i = 0; i < 3; ++i) {
            amounts[i] += earned[i] % 200_000;
            total += amounts[i];
        }
        bytes32[] memory tree = treeOf(amounts[0], amounts[1], amounts[2]);
        uint64 epoch = again && lastWasDisabled() ? raise(nextEpoch - 1) : nextEpoch;
        RewardDistributor.RootAttestation memory a = attestation(epoch, tree[0], total);
        bytes[] memory signatures = signed(a, 3);
        if (total > funded) {
            expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.NotFunded.selector, total, funded));
            return;
        }
        assertEq(distributor.postRoot(a, signatures), leaves.length);
        leaves.push(amounts);
        trees.push(tree);
        nextEpoch = epoch + 1;
        if (total > highestTotal) highestTotal = total;
    }

    function claimOne(uint256 root, uint256 who) public {
        if (leaves.length == 0) return;
        root %= leaves.length;
        who %= 3;
        RewardDistributor.Claim memory c = claimOf(root, who);
        (bool pays, uint256 due) = expectation(root, who);
        try distributor.claim(root, c.account, c.cumulative, c.proof) returns (uint256 paid) {
            require(pays, "X2: paid what was not due");
            assertEq(paid, due);
        } catch {
            require(!pays, "X2: did not pay what was due");
        }
    }

    function claimBatch(uint256[4] memory roots, uint256[4] memory who) external {
        if (leaves.length == 0) return;
        RewardDistributor.Claim[] memory claims = new RewardDistributor.Claim[](4);
        for (uint256 i = 0; i < 4; ++i) {
            claims[i] = claimOf(roots[i] % leaves.length, who[i] % 3);
        }
        uint256 before = token.balanceOf(address(distributor));
        uint256 paid = distributor.claimMany(claims);
        assertEq(before - token.balanceOf(address(distributor)), paid);
    }

    /// Disables one of the last three roots, one time in four.
    function disableSome(uint256 pick) external {
        if (leaves.length == 0 || pick % 4 != 0) return;
        uint256 back = (pick / 4) % 3;
        uint256 index = leaves.length - 1 - (back < leaves.length ? back : 0);
        (,,,,,, bool disabled,) = distributor.roots(index);
        if (!disabled) disable(index);
    }

    /// After any history an honest root makes everybody whole, to the last unit.
    function settle() external {
        uint256[3] memory amounts = bases();
        uint256 total = amounts[0] + amounts[1] + amounts[2];
        while (total > funded) this.fund(599_999);
        this.postNext([uint24(0), 0, 0], false);
        vm.warp(block.timestamp + DELAY);
        for (uint256 i = 0; i < 3; ++i) {
            this.claimOne(leaves.length - 1, i);
            assertEq(distributor.claimed(accountOf(i)), amounts[i]);
        }
        assertEq(distributor.totalClaimed(), total);
    }

    function balances() external view returns (uint256 sum) {
        for (uint256 i = 0; i < 3; ++i) {
            sum += token.balanceOf(accountOf(i));
        }
    }

    function held() external view returns (uint256) {
        return token.balanceOf(address(distributor));
    }

    function bases() private view returns (uint256[3] memory amounts) {
        (bool exists, uint256 last) = distributor.lastLiveRoot();
        for (uint256 i = 0; i < 3; ++i) {
            amounts[i] = distributor.claimed(accountOf(i));
            if (exists && leaves[last][i] > amounts[i]) amounts[i] = leaves[last][i];
        }
    }

    function expectation(uint256 root, uint256 who) private view returns (bool pays, uint256 due) {
        (,,,, uint64 activeAt,, bool disabled, uint256 total) = distributor.roots(root);
        uint256 before = distributor.claimed(accountOf(who));
        if (disabled || block.timestamp < activeAt || leaves[root][who] <= before) return (false, 0);
        due = leaves[root][who] - before;
        pays = distributor.totalClaimed() + due <= total;
    }

    function lastWasDisabled() private view returns (bool disabled) {
        if (leaves.length == 0) return false;
        (,,,,,, disabled,) = distributor.roots(leaves.length - 1);
    }

    function raise(uint64 epoch) private returns (uint64) {
        uint32 revision = distributor.currentRevision(epoch) + 1;
        vm.prank(GUARDIAN);
        distributor.raiseRevision(epoch, revision);
        return epoch;
    }

    function claimOf(uint256 root, uint256 who) private view returns (RewardDistributor.Claim memory) {
        address account = accountOf(who);
        uint256 cumulative = leaves[root][who];
        return RewardDistributor.Claim(root, account, cumulative, proofOf(trees[root], account, cumulative));
    }

    function accountOf(uint256 who) private pure returns (address) {
        return [ALICE, BOB, CAROL][who];
    }
}

/// The invariants X1 and X2, after every step of random histories.
contract InvariantTest {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Handler private handler;
    RewardDistributor private distributor;

    function setUp() public {
        handler = new Handler();
        distributor = handler.target();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), new bytes4[](6));
        targets[0].selectors[0] = Handler.fund.selector;
        targets[0].selectors[1] = Handler.wait.selector;
        targets[0].selectors[2] = Handler.postNext.selector;
        targets[0].selectors[3] = Handler.claimOne.selector;
        targets[0].selectors[4] = Handler.claimBatch.selector;
        targets[0].selectors[5] = Handler.disableSome.selector;
    }

    /// Every unit that came in is still here or with the account it was claimed for.
    function invariant_X2_claimed_is_at_most_committed_is_at_most_funded() external view {
        uint256 claimed = distributor.totalClaimed();
        require(claimed == handler.balances(), "claimed is not what was paid");
        require(claimed + handler.held() == handler.funded(), "units appeared or vanished");
        require(claimed <= handler.highestTotal(), "claimed more than was committed");
        require(handler.highestTotal() <= handler.funded(), "committed more than was funded");
    }

    function invariant_X1_one_live_root_per_epoch_and_revision() external view {
        uint256 count = distributor.rootsCount();
        uint256 nextEpoch = 0;
        uint256 lastTotal = 0;
        for (uint256 i = 0; i < count; ++i) {
            (,, uint64 epoch, uint32 revision,,, bool disabled, uint256 total) = distributor.roots(i);
            require(disabled == distributor.revisionDisabled(epoch, revision), "revision used twice");
            if (disabled) continue;
            require(epoch >= nextEpoch, "live epochs do not rise");
            require(total >= lastTotal, "live totals decrease");
            nextEpoch = uint256(epoch) + 1;
            lastTotal = total;
        }
    }

    function afterInvariant() external {
        handler.settle();
    }
}
