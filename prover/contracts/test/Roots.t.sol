// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {DistributorTest} from "./DistributorTest.sol";
import {vm} from "./Vm.sol";

/// Posting, the attestors' rules, and the guardian's. X1: one live root per epoch and revision, never twice.
contract RootTest is DistributorTest {
    function test_X1_a_posted_root_is_recorded_as_attested() public {
        RewardDistributor.RootAttestation memory a = attestation(4, bytes32(uint256(1)), 77);
        uint64 activeAt = uint64(block.timestamp) + DELAY;
        bytes[] memory signatures = signed(a, 5);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.RootPosted(0, 4, a.root, 0, a.manifest, 0, 3, 77, activeAt);
        assertEq(distributor.postRoot(a, signatures), 0);
        assertEq(distributor.rootsCount(), 1);
        this.checkRecorded(a, activeAt);
    }

    function checkRecorded(RewardDistributor.RootAttestation memory a, uint64 expectedActiveAt) external view {
        (
            bytes32 root,
            bytes32 manifest,
            uint64 throughEpoch,
            uint32 revision,
            uint64 activeAt,
            uint64 leafCount,
            bool disabled,
            uint256 total
        ) = distributor.roots(0);
        assertEq(root, a.root);
        assertEq(manifest, a.manifest);
        assertEq(throughEpoch, a.throughEpoch);
        assertEq(revision, a.revision);
        assertEq(activeAt, expectedActiveAt);
        assertEq(leafCount, a.leafCount);
        require(!disabled, "disabled");
        assertEq(total, a.total);
    }

    function test_the_signed_hash_is_eip712() public view {
        RewardDistributor.RootAttestation memory a = attestation(4, bytes32(uint256(1)), 77);
        bytes32 domainSeparator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Fieldproof"),
                keccak256("1"),
                block.chainid,
                address(distributor)
            )
        );
        bytes32 typeHash = keccak256(
            "RootAttestation(uint64 throughEpoch,uint32 revision,bytes32 root,bytes32 prevRoot,bytes32 manifest,uint64 leafCount,address token,uint256 total)"
        );
        bytes memory fields =
            abi.encode(a.throughEpoch, a.revision, a.root, a.prevRoot, a.manifest, a.leafCount, a.token, a.total);
        bytes32 structHash = keccak256(bytes.concat(typeHash, fields));
        assertEq(distributor.attestationHash(a), keccak256(abi.encodePacked(hex"1901", domainSeparator, structHash)));
    }

    function test_X1_the_same_attestation_is_never_posted_twice() public {
        RewardDistributor.RootAttestation memory a = attestation(4, bytes32(uint256(1)), 77);
        bytes[] memory signatures = signed(a, 3);
        distributor.postRoot(a, signatures);
        expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.EpochNotAfter.selector, 4, 4));
        disable(0);
        // Its signatures are still good and it fits the state again, but the guardian has the last word.
        expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.RevisionIsDisabled.selector, 4, 0));
    }

    function test_X1_an_earlier_or_equal_epoch_is_refused() public {
        post(4, 100, 20, 3);
        RewardDistributor.RootAttestation memory a = attestation(4, bytes32(uint256(1)), 200);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.EpochNotAfter.selector, 4, 4));
        a = attestation(3, bytes32(uint256(1)), 200);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.EpochNotAfter.selector, 3, 4));
    }

    function test_X1_only_the_current_revision_is_accepted() public {
        RewardDistributor.RootAttestation memory a = attestation(4, bytes32(uint256(1)), 77);
        a.revision = 1;
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.WrongRevision.selector, 4, 1, 0));
        vm.expectEmit(address(distributor));
        emit RewardDistributor.RevisionRaised(4, 2);
        vm.prank(GUARDIAN);
        distributor.raiseRevision(4, 2);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.WrongRevision.selector, 4, 1, 2));
        a.revision = 2;
        distributor.postRoot(a, signed(a, 3));
    }

    function test_X1_a_revision_only_rises() public {
        vm.prank(GUARDIAN);
        distributor.raiseRevision(4, 2);
        for (uint32 revision = 0; revision <= 2; ++revision) {
            vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RevisionNotRaised.selector, 4, revision, 2));
            vm.prank(GUARDIAN);
            distributor.raiseRevision(4, revision);
        }
    }

    function test_X1_prevRoot_must_be_the_last_live_root() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 77);
        a.prevRoot = bytes32(uint256(9));
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.WrongPrevRoot.selector, 9, 0));
        a.prevRoot = 0;
        distributor.postRoot(a, signed(a, 3));
        a = attestation(1, bytes32(uint256(2)), 77);
        a.prevRoot = 0;
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.WrongPrevRoot.selector, 0, 1));
    }

    function test_X2_a_root_that_is_not_funded_is_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), FUNDS + 1);
        bytes[] memory signatures = signed(a, 3);
        expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.NotFunded.selector, FUNDS + 1, FUNDS));
        token.mint(address(distributor), 1);
        distributor.postRoot(a, signatures);
    }

    function test_X2_what_was_paid_counts_as_funded() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, FUNDS, 0, 0);
        distributor.claim(index, ALICE, FUNDS, proofOf(tree, ALICE, FUNDS));
        assertEq(token.balanceOf(address(distributor)), 0);
        post(1, FUNDS, 0, 0);
        RewardDistributor.RootAttestation memory a = attestation(2, bytes32(uint256(1)), FUNDS + 1);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.NotFunded.selector, FUNDS + 1, FUNDS));
    }

    function test_X2_total_never_decreases() public {
        post(0, 100, 20, 3);
        RewardDistributor.RootAttestation memory a = attestation(1, bytes32(uint256(1)), 122);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.TotalDecreased.selector, 122, 123));
        a.total = 123;
        distributor.postRoot(a, signed(a, 3));
    }

    function test_zero_root_and_other_token_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(3, 0, 1);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.EmptyRoot.selector, 3));
        a.root = bytes32(uint256(1));
        a.token = ALICE;
        expectRefused(
            a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.WrongToken.selector, ALICE, address(token))
        );
    }

    function test_too_few_signatures_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        for (uint256 count = 0; count < 3; ++count) {
            expectRefused(
                a, signed(a, count), abi.encodeWithSelector(RewardDistributor.TooFewSignatures.selector, count, 3)
            );
        }
    }

    function test_duplicate_signers_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        signatures[2] = signatures[1];
        address signer = vm.addr(keys[1]);
        expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.NotAscending.selector, signer, signer));
    }

    function test_unsorted_signers_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        (signatures[0], signatures[1]) = (signatures[1], signatures[0]);
        expectRefused(
            a,
            signatures,
            abi.encodeWithSelector(RewardDistributor.NotAscending.selector, vm.addr(keys[1]), vm.addr(keys[0]))
        );
    }

    function test_a_stranger_among_the_signers_is_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        uint256 stranger = 1;
        while (vm.addr(stranger) <= vm.addr(keys[1])) ++stranger;
        signatures[2] = signature(stranger, distributor.attestationHash(a));
        expectRefused(a, signatures, abi.encodeWithSelector(RewardDistributor.NotAttestor.selector, vm.addr(stranger)));
    }

    /// Signatures bind every field: change one after signing and they are somebody else's.
    function testFuzz_a_changed_attestation_is_refused(uint8 field) public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        field %= 5;
        if (field == 0) a.throughEpoch += 1;
        if (field == 1) a.root = bytes32(uint256(2));
        if (field == 2) a.manifest = ~a.manifest;
        if (field == 3) a.leafCount += 1;
        if (field == 4) a.total += 1;
        try distributor.postRoot(a, signatures) {
            revert("posted");
        } catch (bytes memory reason) {
            bytes4 selector = bytes4(reason);
            require(
                selector == RewardDistributor.NotAttestor.selector
                    || selector == RewardDistributor.NotAscending.selector,
                "other reason"
            );
        }
    }

    function test_signatures_for_another_chain_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        vm.chainId(block.chainid + 1);
        try distributor.postRoot(a, signatures) {
            revert("posted");
        } catch {}
    }

    function test_malformed_and_malleable_signatures_are_refused() public {
        RewardDistributor.RootAttestation memory a = attestation(0, bytes32(uint256(1)), 1);
        bytes[] memory signatures = signed(a, 3);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[0], distributor.attestationHash(a));
        signatures[0] = abi.encodePacked(r, s);
        expectRefused(a, signatures, abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 64));
        // The mirrored twin of a valid signature: n - s, with the other v.
        uint256 n = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes32 high = bytes32(n - uint256(s));
        signatures[0] = abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27));
        expectRefused(a, signatures, abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, high));
    }

    function test_threshold_must_be_more_than_half() public {
        for (uint256 count = 0; count <= 5; ++count) {
            address[] memory attestors = attestorsOf(sortedKeys(count));
            for (uint256 k = 0; k <= count + 1; ++k) {
                if (2 * k <= count || k > count) {
                    vm.expectRevert(abi.encodeWithSelector(RewardDistributor.BadThreshold.selector, k, count));
                    new RewardDistributor(token, attestors, k, DELAY, GUARDIAN);
                } else {
                    RewardDistributor made = new RewardDistributor(token, attestors, k, DELAY, GUARDIAN);
                    assertEq(made.threshold(), k);
                    assertEq(made.attestors().length, count);
                }
            }
        }
    }

    function test_attestors_must_be_ascending_and_not_zero() public {
        address[] memory attestors = new address[](2);
        (attestors[0], attestors[1]) = (ALICE, ALICE);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotAscending.selector, ALICE, ALICE));
        new RewardDistributor(token, attestors, 2, DELAY, GUARDIAN);
        (attestors[0], attestors[1]) = (ALICE, BOB);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotAscending.selector, ALICE, BOB));
        new RewardDistributor(token, attestors, 2, DELAY, GUARDIAN);
        (attestors[0], attestors[1]) = (address(0), ALICE);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotAscending.selector, address(0), address(0)));
        new RewardDistributor(token, attestors, 2, DELAY, GUARDIAN);
    }

    function test_the_token_must_exist_and_so_must_the_guardian() public {
        address[] memory attestors = attestorsOf(keys);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotAToken.selector, ALICE));
        new RewardDistributor(IERC20(ALICE), attestors, 3, DELAY, GUARDIAN);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NoGuardian.selector));
        new RewardDistributor(token, attestors, 3, DELAY, address(0));
    }

    function test_X2_a_root_disabled_before_activation_never_pays() public {
        (bytes32[] memory tree, uint256 index) = post(0, 100, 20, 3);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.RootDisabled(index, 0, tree[0], 0);
        disable(index);
        vm.warp(block.timestamp + DELAY);
        bytes32[] memory proof = proofOf(tree, ALICE, 100);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RootIsDisabled.selector, index));
        distributor.claim(index, ALICE, 100, proof);
        require(distributor.verify(index, ALICE, 100, proof), "the record stays provable");
        (bool exists,) = distributor.lastLiveRoot();
        require(!exists, "no live root is left");
    }

    function test_X2_a_root_disabled_after_activation_pays_nothing_more() public {
        (bytes32[] memory tree, uint256 index) = postActive(0, 100, 20, 3);
        distributor.claim(index, ALICE, 100, proofOf(tree, ALICE, 100));
        disable(index);
        bytes32[] memory proof = proofOf(tree, BOB, 20);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RootIsDisabled.selector, index));
        distributor.claim(index, BOB, 20, proof);
    }

    function test_X1_X2_the_next_root_builds_on_the_last_live_one() public {
        (bytes32[] memory good, uint256 goodIndex) = postActive(0, 100, 20, 3);
        (bytes32[] memory bad, uint256 badIndex) = postActive(1, 900, 20, 3);
        (bytes32[] memory later, uint256 laterIndex) = post(2, 901, 21, 4);
        distributor.claim(badIndex, ALICE, 900, proofOf(bad, ALICE, 900));

        vm.expectEmit(address(distributor));
        emit RewardDistributor.RootDisabled(laterIndex, 2, later[0], 0);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.RootDisabled(badIndex, 1, bad[0], 0);
        disable(badIndex);
        (bool exists, uint256 last) = distributor.lastLiveRoot();
        require(exists, "the good root is live");
        assertEq(last, goodIndex);

        // The good root is live, but what the bad one overpaid has used up its total.
        bytes32[] memory proof = proofOf(good, BOB, 20);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.TotalExceeded.selector, goodIndex, 920, 123));
        distributor.claim(goodIndex, BOB, 20, proof);

        vm.prank(GUARDIAN);
        distributor.raiseRevision(1, 1);
        RewardDistributor.RootAttestation memory a = attestation(1, bytes32(uint256(1)), 899);
        assertEq(a.prevRoot, good[0]);
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.TotalDecreased.selector, 899, 900));
        (bytes32[] memory next, uint256 nextIndex) = postActive(1, 900, 20, 3);
        assertEq(nextIndex, 3);
        assertEq(distributor.claim(nextIndex, BOB, 20, proofOf(next, BOB, 20)), 20);

        // Old signatures for what followed the bad root do not fit any more.
        a = attestation(2, later[0], 926);
        a.prevRoot = bad[0];
        expectRefused(a, signed(a, 3), abi.encodeWithSelector(RewardDistributor.RevisionIsDisabled.selector, 2, 0));
    }

    function test_X1_repeating_a_disable_does_not_hit_later_roots() public {
        post(0, 100, 20, 3);
        post(1, 100, 20, 3);
        disable(1);
        post(2, 100, 20, 4);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RootIsDisabled.selector, 1));
        disable(1);
        (, uint256 last) = distributor.lastLiveRoot();
        assertEq(last, 2);
        vm.recordLogs();
        disable(0); // root 1 is passed over, 2 and 0 are disabled
        assertEq(vm.getRecordedLogs().length, 2);
        (bool exists,) = distributor.lastLiveRoot();
        require(!exists, "no live root is left");
    }

    function test_only_the_guardian_disables_and_raises() public {
        post(0, 100, 20, 3);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotGuardian.selector, address(this)));
        distributor.disableRoot(0);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotGuardian.selector, address(this)));
        distributor.raiseRevision(0, 1);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.UnknownRoot.selector, 1, 1));
        disable(1);
    }
}
