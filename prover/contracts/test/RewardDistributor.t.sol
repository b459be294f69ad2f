// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TestToken} from "../src/TestToken.sol";
import {DistributorTest} from "./DistributorTest.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

/// Claims. Ids in names are those of the project's invariants: X2 is "the sum of claims never exceeds what was
/// committed, nor what is funded; a second claim and a disabled root pay nothing", P1 is "every leaf
/// proves, and one flipped bit fails".
contract ClaimTest is DistributorTest {
    function test_X2_claim_pays_exactly_the_difference() public {
        (bytes32[] memory first, uint256 firstIndex) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(first, ALICE, 100);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.RewardsClaimed(firstIndex, ALICE, 100, 100);
        assertEq(distributor.claim(firstIndex, ALICE, 100, proof), 100);
        assertEq(token.balanceOf(ALICE), 100);

        (bytes32[] memory second, uint256 secondIndex) = postActive(7, 150, 20, 3);
        assertEq(distributor.claim(secondIndex, ALICE, 150, proofOf(second, ALICE, 150)), 50);
        assertEq(token.balanceOf(ALICE), 150);
        assertEq(distributor.claimed(ALICE), 150);
        assertEq(distributor.totalClaimed(), 150);
        assertEq(token.balanceOf(address(distributor)), FUNDS - 150);
    }

    function test_claim_by_anyone_pays_the_account() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, BOB, 20);
        vm.prank(CAROL);
        distributor.claim(index, BOB, 20, proof);
        assertEq(token.balanceOf(BOB), 20);
        assertEq(token.balanceOf(CAROL), 0);
    }

    function test_X2_second_claim_pays_nothing() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        distributor.claim(index, ALICE, 100, proof);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, ALICE, 100, 100));
        distributor.claim(index, ALICE, 100, proof);
        assertEq(token.balanceOf(ALICE), 100);
    }

    function test_X2_an_older_root_pays_nothing_after_a_newer_one() public {
        (bytes32[] memory older, uint256 olderIndex) = postActive(0, 100, 20, 3);
        (bytes32[] memory newer, uint256 newerIndex) = postActive(1, 150, 30, 3);
        distributor.claim(newerIndex, ALICE, 150, proofOf(newer, ALICE, 150));
        bytes32[] memory proof = proofOf(older, ALICE, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, ALICE, 100, 150));
        distributor.claim(olderIndex, ALICE, 100, proof);
        // The older total is used up by then; the newer root pays the others in full.
        proof = proofOf(older, BOB, 20);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.TotalExceeded.selector, olderIndex, 170, 123));
        distributor.claim(olderIndex, BOB, 20, proof);
        assertEq(distributor.claim(newerIndex, BOB, 30, proofOf(newer, BOB, 30)), 30);
    }

    function test_X2_claims_stop_at_the_total_even_if_leaves_sum_to_more() public {
        bytes32[] memory tree = treeOf(100, 100, 100);
        RewardDistributor.RootAttestation memory a = attestation(0, tree[0], 150);
        distributor.postRoot(a, signed(a, 3));
        vm.warp(block.timestamp + DELAY);
        distributor.claim(0, ALICE, 100, proofOf(tree, ALICE, 100));
        bytes32[] memory proof = proofOf(tree, BOB, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.TotalExceeded.selector, 0, 200, 150));
        distributor.claim(0, BOB, 100, proof);
    }

    function test_X2_claimMany_pays_a_duplicate_once() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        RewardDistributor.Claim[] memory claims = new RewardDistributor.Claim[](3);
        for (uint256 i = 0; i < 3; ++i) {
            claims[i] = RewardDistributor.Claim(index, ALICE, 100, proofOf(tree, ALICE, 100));
        }
        for (uint256 i = 1; i < 3; ++i) {
            vm.expectEmit(address(distributor));
            emit RewardDistributor.ClaimSkipped(
                i, ALICE, abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, ALICE, 100, 100)
            );
        }
        assertEq(distributor.claimMany(claims), 100);
        assertEq(token.balanceOf(ALICE), 100);
        assertEq(distributor.totalClaimed(), 100);
    }

    function test_X2_claimMany_skips_what_fails_and_pays_the_rest() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        (, uint256 inactive) = post(1, 200, 40, 6);
        distributor.claim(index, ALICE, 100, proofOf(tree, ALICE, 100));
        uint64 activeAt = uint64(block.timestamp) + DELAY;

        RewardDistributor.Claim[] memory claims = new RewardDistributor.Claim[](6);
        claims[0] = RewardDistributor.Claim(index, ALICE, 100, proofOf(tree, ALICE, 100));
        claims[1] = RewardDistributor.Claim(index, BOB, 21, proofOf(tree, BOB, 20));
        claims[2] = RewardDistributor.Claim(inactive, BOB, 20, proofOf(tree, BOB, 20));
        claims[3] = RewardDistributor.Claim(9, BOB, 20, proofOf(tree, BOB, 20));
        claims[4] = RewardDistributor.Claim(index, CAROL, 3, proofOf(tree, CAROL, 3));
        claims[5] = RewardDistributor.Claim(index, BOB, 20, proofOf(tree, BOB, 20));
        bytes[] memory reasons = new bytes[](4);
        reasons[0] = abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, ALICE, 100, 100);
        reasons[1] = abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, index, distributor.leafOf(BOB, 21));
        reasons[2] = abi.encodeWithSelector(RewardDistributor.RootNotActive.selector, inactive, activeAt);
        reasons[3] = abi.encodeWithSelector(RewardDistributor.UnknownRoot.selector, 9, 2);
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectEmit(address(distributor));
            emit RewardDistributor.ClaimSkipped(i, claims[i].account, reasons[i]);
        }
        assertEq(distributor.claimMany(claims), 23);
        assertEq(token.balanceOf(BOB), 20);
        assertEq(token.balanceOf(CAROL), 3);
    }

    /// A batch does what its items would do one by one, whatever is in it.
    function testFuzz_X2_claimMany_equals_single_claims(uint8[8] memory picks) public {
        (bytes32[] memory first,) = postActive(0, 100, 20, 3);
        (bytes32[] memory second,) = postActive(1, 150, 20, 30);
        RewardDistributor.Claim[] memory claims = new RewardDistributor.Claim[](picks.length);
        for (uint256 i = 0; i < picks.length; ++i) {
            uint256 root = picks[i] % 2;
            address account = [ALICE, BOB, CAROL][(picks[i] / 2) % 3];
            uint256 cumulative = [[uint256(100), 20, 3], [uint256(150), 20, 30]][root][(picks[i] / 2) % 3];
            claims[i] = RewardDistributor.Claim(
                root, account, cumulative, proofOf(root == 0 ? first : second, account, cumulative)
            );
            if (picks[i] >= 192) claims[i].cumulative += 1; // a quarter does not prove
        }
        uint256 expected = 0;
        for (uint256 i = 0; i < claims.length; ++i) {
            expected += this.claimThenUndo(claims, i);
        }
        assertEq(distributor.claimMany(claims), expected);
        assertEq(distributor.totalClaimed(), expected);
        assertEq(token.balanceOf(address(distributor)), FUNDS - expected);
    }

    /// What item `last` pays when it follows the items before it, each as a transaction of its own.
    function claimThenUndo(RewardDistributor.Claim[] memory claims, uint256 last) external returns (uint256 paid) {
        try this.claimAllThenRevert(claims, last) {
            revert("unreachable");
        } catch (bytes memory data) {
            return abi.decode(data, (uint256));
        }
    }

    function claimAllThenRevert(RewardDistributor.Claim[] memory claims, uint256 last) external {
        uint256 paid = 0;
        for (uint256 i = 0; i <= last; ++i) {
            RewardDistributor.Claim memory c = claims[i];
            paid = 0;
            try distributor.claim(c.rootIndex, c.account, c.cumulative, c.proof) returns (uint256 amount) {
                paid = amount;
            } catch {}
        }
        bytes memory data = abi.encode(paid);
        assembly ("memory-safe") { revert(add(data, 32), mload(data)) }
    }

    function testFuzz_P1_every_leaf_of_any_tree_proves(uint8 size, uint256 seed) public {
        uint256 count = uint256(size) % 40 + 1;
        bytes32[] memory leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            leaves[i] = distributor.leafOf(address(uint160(seed) ^ uint160(i + 1)), i);
        }
        bytes32[] memory tree = Tree.build(leaves);
        RewardDistributor.RootAttestation memory a = attestation(0, tree[0], FUNDS);
        distributor.postRoot(a, signed(a, 3));
        for (uint256 i = 0; i < count; ++i) {
            address account = address(uint160(seed) ^ uint160(i + 1));
            require(distributor.verify(0, account, i, Tree.proof(tree, leaves[i])), "leaf does not prove");
        }
    }

    function testFuzz_P1_one_flipped_bit_in_the_proof_is_refused(uint256 node, uint8 bit) public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        proof[node % proof.length] ^= bytes32(uint256(1) << bit);
        require(!distributor.verify(index, ALICE, 100, proof), "verified");
        bytes32 leaf = distributor.leafOf(ALICE, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, index, leaf));
        distributor.claim(index, ALICE, 100, proof);
    }

    function testFuzz_P1_one_flipped_bit_in_the_amount_is_refused(uint8 bit) public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        uint256 cumulative = 100 ^ (uint256(1) << bit);
        bytes32 leaf = distributor.leafOf(ALICE, cumulative);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, index, leaf));
        distributor.claim(index, ALICE, cumulative, proof);
    }

    function testFuzz_P1_one_flipped_bit_in_the_account_is_refused(uint8 bit) public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        address account = address(uint160(ALICE) ^ (uint160(1) << (bit % 160)));
        bytes32 leaf = distributor.leafOf(account, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, index, leaf));
        distributor.claim(index, account, 100, proof);
    }

    function test_P1_a_shorter_or_longer_proof_is_refused() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        bytes32[] memory longer = new bytes32[](proof.length + 1);
        for (uint256 i = 0; i < proof.length; ++i) {
            longer[i] = proof[i];
        }
        bytes32[] memory shorter = new bytes32[](proof.length - 1);
        for (uint256 i = 0; i < shorter.length; ++i) {
            shorter[i] = proof[i];
        }
        require(!distributor.verify(index, ALICE, 100, longer), "longer proof verified");
        require(!distributor.verify(index, ALICE, 100, shorter), "shorter proof verified");
    }

    function test_P1_leaf_of_another_chain_is_refused() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        bytes32 leaf = distributor.leafOf(ALICE, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, index, leaf));
        distributor.claim(index, ALICE, 100, proof);
        vm.chainId(here);
        assertEq(distributor.claim(index, ALICE, 100, proof), 100);
    }

    function test_P1_leaf_of_another_contract_is_refused() public {
        bytes32[] memory tree = treeOf(100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        distributor = new RewardDistributor(token, attestorsOf(keys), 3, DELAY, GUARDIAN);
        token.mint(address(distributor), FUNDS);
        RewardDistributor.RootAttestation memory a = attestation(0, tree[0], 123);
        distributor.postRoot(a, signed(a, 3));
        vm.warp(block.timestamp + DELAY);
        bytes32 leaf = distributor.leafOf(ALICE, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, 0, leaf));
        distributor.claim(0, ALICE, 100, proof);
    }

    function test_P1_domain_and_leaf_are_what_the_formats_say() public view {
        bytes32 typeHash = keccak256("FieldproofRewards(uint256 chainId,address distributor)");
        uint256 domain = uint256(keccak256(abi.encode(typeHash, block.chainid, address(distributor))));
        assertEq(distributor.domain(), domain);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(domain, ALICE, address(token), uint256(100)))));
        assertEq(distributor.leafOf(ALICE, 100), leaf);
    }

    function test_P1_the_javascript_library_builds_the_same_tree() public view {
        string memory json = vm.readFile("test/testdata/standard-v1.json");
        bytes32[] memory expected = vm.parseJsonBytes32Array(json, ".tree");
        bytes32[] memory leaves = new bytes32[]((expected.length + 1) / 2);
        for (uint256 i = 0; i < leaves.length; ++i) {
            string memory value = string.concat(".values[", vm.toString(i), "].value");
            leaves[i] = keccak256(
                bytes.concat(
                    keccak256(
                        abi.encode(
                            vm.parseJsonUint(json, string.concat(value, "[0]")),
                            vm.parseJsonAddress(json, string.concat(value, "[1]")),
                            vm.parseJsonAddress(json, string.concat(value, "[2]")),
                            vm.parseJsonUint(json, string.concat(value, "[3]"))
                        )
                    )
                )
            );
        }
        bytes32[] memory tree = Tree.build(leaves);
        for (uint256 i = 0; i < expected.length; ++i) {
            assertEq(tree[i], expected[i]);
        }
    }

    function test_a_tree_of_one_leaf_pays_with_an_empty_proof() public {
        RewardDistributor.RootAttestation memory a = attestation(0, distributor.leafOf(ALICE, 5), 5);
        distributor.postRoot(a, signed(a, 3));
        vm.warp(block.timestamp + DELAY);
        assertEq(distributor.claim(0, ALICE, 5, new bytes32[](0)), 5);
    }

    function test_X2_nothing_is_paid_before_activation() public {
        (bytes32[] memory tree, uint256 index) = post(0, 100, 20, 3);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        uint64 activeAt = uint64(block.timestamp) + DELAY;
        vm.warp(activeAt - 1);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RootNotActive.selector, index, activeAt));
        distributor.claim(index, ALICE, 100, proof);
        vm.warp(activeAt);
        assertEq(distributor.claim(index, ALICE, 100, proof), 100);
    }

    function test_X2_the_distributor_is_never_paid_itself() public {
        bytes32 root = distributor.leafOf(address(distributor), 5);
        RewardDistributor.RootAttestation memory a = attestation(0, root, 5);
        distributor.postRoot(a, signed(a, 3));
        vm.warp(block.timestamp + DELAY);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.BadAccount.selector, address(distributor)));
        distributor.claim(0, address(distributor), 5, new bytes32[](0));
    }

    function test_unknown_root_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.UnknownRoot.selector, 0, 0));
        distributor.claim(0, ALICE, 1, new bytes32[](0));
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.UnknownRoot.selector, 0, 0));
        distributor.verify(0, ALICE, 1, new bytes32[](0));
    }

    function test_only_the_deployer_mints_test_tokens() public {
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(TestToken.NotMinter.selector, ALICE));
        token.mint(ALICE, 1);
    }

    function test_claimItem_is_only_for_the_contract_itself() public {
        RewardDistributor.Claim memory item = RewardDistributor.Claim(0, ALICE, 1, new bytes32[](0));
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotSelf.selector, address(this)));
        distributor.claimItem(item);
    }
}

/// A token that calls back into the distributor when it pays, and refuses to pay some.
contract HostileToken is ERC20("Hostile", "H") {
    address public refused;
    address public target;
    bytes public call;
    bytes public answer;

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function arm(address refused_, address target_, bytes calldata call_) external {
        (refused, target, call) = (refused_, target_, call_);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        require(to != refused, "refused");
        if (target != address(0)) (, answer) = target.call(call);
        return super.transfer(to, amount);
    }
}

/// What a token can do from inside a payment.
contract HostileTokenTest is DistributorTest {
    HostileToken private hostile;
    bytes32[] private tree;

    function setUp() public override {
        super.setUp();
        hostile = new HostileToken();
        token = TestToken(address(hostile));
        distributor = new RewardDistributor(token, attestorsOf(keys), 3, DELAY, GUARDIAN);
        hostile.mint(address(distributor), FUNDS);
        (tree,) = postActive(0, 100, 20, 3);
    }

    function batch() private view returns (RewardDistributor.Claim[] memory claims) {
        claims = new RewardDistributor.Claim[](2);
        claims[0] = RewardDistributor.Claim(0, ALICE, 100, proofOf(tree, ALICE, 100));
        claims[1] = RewardDistributor.Claim(0, BOB, 20, proofOf(tree, BOB, 20));
    }

    /// Every state-changing way in that is open to anyone.
    function waysIn() private view returns (bytes[] memory calls) {
        bytes32[] memory proof = proofOf(tree, CAROL, 3);
        RewardDistributor.RootAttestation memory a = attestation(1, bytes32(uint256(1)), 200);
        calls = new bytes[](4);
        calls[0] = abi.encodeCall(RewardDistributor.claimItem, (RewardDistributor.Claim(0, CAROL, 3, proof)));
        calls[1] = abi.encodeCall(RewardDistributor.claim, (0, CAROL, 3, proof));
        calls[2] = abi.encodeCall(RewardDistributor.claimMany, (batch()));
        calls[3] = abi.encodeCall(RewardDistributor.postRoot, (a, signed(a, 3)));
    }

    function test_X2_reentering_any_way_in_is_refused() public {
        for (uint256 i = 0; i < 8; ++i) {
            setUp();
            hostile.arm(address(0), address(distributor), waysIn()[i / 2]);
            RewardDistributor.Claim[] memory claims = batch();
            if (i % 2 == 0) assertEq(distributor.claimMany(claims), 120);
            else distributor.claim(0, ALICE, 100, claims[0].proof);
            bytes memory expected = i / 2 == 0
                ? abi.encodeWithSelector(RewardDistributor.NotSelf.selector, address(hostile))
                : abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            assertEq(hostile.answer(), expected);
            assertEq(hostile.balanceOf(CAROL), 0);
        }
    }

    function test_X2_claimMany_skips_a_payment_the_token_refuses() public {
        hostile.arm(ALICE, address(0), "");
        vm.expectEmit(address(distributor));
        emit RewardDistributor.ClaimSkipped(0, ALICE, abi.encodeWithSignature("Error(string)", "refused"));
        assertEq(distributor.claimMany(batch()), 20);
        assertEq(distributor.claimed(ALICE), 0);
        assertEq(distributor.totalClaimed(), 20);
        hostile.arm(address(0), address(0), "");
        assertEq(distributor.claimMany(batch()), 100);
    }
}
