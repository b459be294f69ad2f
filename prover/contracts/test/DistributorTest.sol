// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TestToken} from "../src/TestToken.sol";
import {Tree} from "./Tree.sol";
import {vm} from "./Vm.sol";

/// What every test starts from: a token, five attestors of whom three must sign, and ways to make trees,
/// attestations and signatures.
abstract contract DistributorTest {
    uint64 internal constant DELAY = 1 days;
    uint256 internal constant FUNDS = 1_000_000;
    address internal constant GUARDIAN = address(0x60A4D1A7);
    address internal constant ALICE = address(0xA11CE);
    address internal constant BOB = address(0xB0B);
    address internal constant CAROL = address(0xCA401);

    TestToken internal token;
    RewardDistributor internal distributor;
    uint256[] internal keys; // of the attestors, in the order of their addresses

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        token = new TestToken();
        keys = sortedKeys(5);
        distributor = new RewardDistributor(token, attestorsOf(keys), 3, DELAY, GUARDIAN);
        token.mint(address(distributor), FUNDS);
    }

    function sortedKeys(uint256 count) internal pure returns (uint256[] memory sorted) {
        sorted = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 key = uint256(keccak256(abi.encode("attestor", i)));
            uint256 j = i;
            for (; j > 0 && vm.addr(sorted[j - 1]) > vm.addr(key); --j) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = key;
        }
    }

    function attestorsOf(uint256[] memory from) internal pure returns (address[] memory addresses) {
        addresses = new address[](from.length);
        for (uint256 i = 0; i < from.length; ++i) {
            addresses[i] = vm.addr(from[i]);
        }
    }

    /// A tree over ALICE, BOB and CAROL.
    function treeOf(uint256 alice, uint256 bob, uint256 carol) internal view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](3);
        leaves[0] = distributor.leafOf(ALICE, alice);
        leaves[1] = distributor.leafOf(BOB, bob);
        leaves[2] = distributor.leafOf(CAROL, carol);
        return Tree.build(leaves);
    }

    function proofOf(bytes32[] memory tree, address account, uint256 cumulative)
        internal
        view
        returns (bytes32[] memory)
    {
        return Tree.proof(tree, distributor.leafOf(account, cumulative));
    }

    /// An attestation that fits on the last live root.
    function attestation(uint64 epoch, bytes32 root, uint256 total)
        internal
        view
        returns (RewardDistributor.RootAttestation memory a)
    {
        a.throughEpoch = epoch;
        a.revision = distributor.currentRevision(epoch);
        a.root = root;
        (bool exists, uint256 last) = distributor.lastLiveRoot();
        if (exists) (a.prevRoot,,,,,,,) = distributor.roots(last);
        a.manifest = keccak256(abi.encode("manifest", epoch));
        a.leafCount = 3;
        a.token = address(token);
        a.total = total;
    }

    function signature(uint256 key, bytes32 hash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, hash);
        return abi.encodePacked(r, s, v);
    }

    /// Signatures of the first `count` attestors, in order.
    function signed(RewardDistributor.RootAttestation memory a, uint256 count)
        internal
        view
        returns (bytes[] memory signatures)
    {
        signatures = new bytes[](count);
        bytes32 hash = distributor.attestationHash(a);
        for (uint256 i = 0; i < count; ++i) {
            signatures[i] = signature(keys[i], hash);
        }
    }

    /// Posts the tree of these amounts as the next root, and returns it with the root's index.
    function post(uint64 epoch, uint256 alice, uint256 bob, uint256 carol)
        internal
        returns (bytes32[] memory tree, uint256 index)
    {
        tree = treeOf(alice, bob, carol);
        RewardDistributor.RootAttestation memory a = attestation(epoch, tree[0], alice + bob + carol);
        index = distributor.postRoot(a, signed(a, 3));
    }

    /// As `post`, and waits until the root is active.
    function postActive(uint64 epoch, uint256 alice, uint256 bob, uint256 carol)
        internal
        returns (bytes32[] memory tree, uint256 index)
    {
        (tree, index) = post(epoch, alice, bob, carol);
        vm.warp(block.timestamp + DELAY);
    }

    function disable(uint256 index) internal {
        vm.prank(GUARDIAN);
        distributor.disableRoot(index);
    }

    /// The next `postRoot(a, signatures)` must revert with this error.
    function expectRefused(
        RewardDistributor.RootAttestation memory a,
        bytes[] memory signatures,
        bytes memory revertData
    ) internal {
        vm.expectRevert(revertData);
        distributor.postRoot(a, signatures);
    }

    function assertEq(uint256 got, uint256 expected) internal pure {
        require(got == expected, string.concat("got ", vm.toString(got), ", expected ", vm.toString(expected)));
    }

    function assertEq(address got, address expected) internal pure {
        require(got == expected, "addresses differ");
    }

    function assertEq(bytes32 got, bytes32 expected) internal pure {
        require(got == expected, "words differ");
    }

    function assertEq(bytes memory got, bytes memory expected) internal pure {
        require(keccak256(got) == keccak256(expected), "bytes differ");
    }
}
