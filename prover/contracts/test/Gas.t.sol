// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {DistributorTest} from "./DistributorTest.sol";
import {vm} from "./Vm.sol";

/// What whole transactions cost, with proofs of a tree of a million leaves. The figures are committed in
/// snapshots/, and a test fails when one changes; `npm run gas` writes them anew.
contract GasTest is DistributorTest {
    uint256 private constant DEPTH = 20;

    function test_gas_of_claim() public {
        bytes32[] memory proof = postDeep(0, ALICE, 100);
        distributor.claim(0, ALICE, 100, proof); // the first ever pays for a slot that all share
        proof = postDeep(1, BOB, 20);
        distributor.claim(1, BOB, 20, proof);
        vm.snapshotGasLastCall("claim, first of an account, depth 20");
        proof = postDeep(2, BOB, 40);
        distributor.claim(2, BOB, 40, proof);
        vm.snapshotGasLastCall("claim, later, depth 20");
    }

    function test_gas_of_claimMany() public {
        uint256 count = 16;
        RewardDistributor.Claim[] memory claims = new RewardDistributor.Claim[](count);
        for (uint64 epoch = 0; epoch < 2; ++epoch) {
            // One tree in which 16 neighbours are claimed: their subtree, and 16 levels above it.
            bytes32[] memory level = new bytes32[](count);
            for (uint256 i = 0; i < count; ++i) {
                address account = address(uint160(0xCAFE00 + i));
                claims[i] = RewardDistributor.Claim(epoch, account, 10 * (epoch + 1), new bytes32[](DEPTH));
                level[i] = distributor.leafOf(account, claims[i].cumulative);
            }
            bytes32 root;
            for (uint256 height = 0; height < DEPTH; ++height) {
                for (uint256 i = 0; i < count; ++i) {
                    claims[i].proof[height] = height < 4 ? level[(i >> height) ^ 1] : sibling(height);
                }
                for (uint256 i = 0; height < 4 && i < count >> (height + 1); ++i) {
                    level[i] = Hashes.commutativeKeccak256(level[2 * i], level[2 * i + 1]);
                }
                if (height >= 4) level[0] = Hashes.commutativeKeccak256(level[0], sibling(height));
                root = level[0];
            }
            activate(epoch, root);
            require(distributor.claimMany(claims) == 10 * count, "not all paid");
            vm.snapshotGasLastCall(epoch == 0 ? "claimMany of 16, first" : "claimMany of 16, later");
        }
    }

    function test_gas_of_postRoot() public {
        for (uint64 epoch = 0; epoch < 3; ++epoch) {
            RewardDistributor.RootAttestation memory a = attestation(epoch, bytes32(uint256(epoch) + 1), 77);
            bytes[] memory signatures = signed(a, epoch == 2 ? 5 : 3);
            distributor.postRoot(a, signatures);
            if (epoch == 1) vm.snapshotGasLastCall("postRoot, 3 signatures");
            if (epoch == 2) vm.snapshotGasLastCall("postRoot, 5 signatures");
        }
    }

    function test_gas_of_disableRoot() public {
        for (uint64 epoch = 0; epoch < 24; ++epoch) {
            post(epoch, 100, 20, 3);
        }
        disable(23);
        vm.snapshotGasLastCall("disableRoot, 1 root");
        disable(1);
        vm.snapshotGasLastCall("disableRoot, 22 roots");
    }

    function postDeep(uint64 epoch, address account, uint256 cumulative) private returns (bytes32[] memory proof) {
        bytes32 node = distributor.leafOf(account, cumulative);
        proof = new bytes32[](DEPTH);
        for (uint256 i = 0; i < DEPTH; ++i) {
            proof[i] = sibling(i);
            node = Hashes.commutativeKeccak256(node, proof[i]);
        }
        activate(epoch, node);
    }

    function activate(uint64 epoch, bytes32 root) private {
        RewardDistributor.RootAttestation memory a = attestation(epoch, root, FUNDS);
        distributor.postRoot(a, signed(a, 3));
        vm.warp(block.timestamp + DELAY);
    }

    function sibling(uint256 height) private pure returns (bytes32) {
        return keccak256(abi.encode("sibling", height));
    }
}
