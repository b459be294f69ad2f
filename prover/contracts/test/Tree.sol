// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// OpenZeppelin's standard tree, written from its definition: leaf hashes sorted, then stored from the end of
/// a heap in which node i hashes nodes 2i+1 and 2i+2. testdata/ holds one that the JavaScript library made.
library Tree {
    function build(bytes32[] memory leaves) internal pure returns (bytes32[] memory tree) {
        uint256 count = leaves.length;
        bytes32[] memory sorted = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 j = i;
            for (; j > 0 && sorted[j - 1] > leaves[i]; --j) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = leaves[i];
        }
        tree = new bytes32[](2 * count - 1);
        for (uint256 i = 0; i < count; ++i) {
            tree[tree.length - 1 - i] = sorted[i];
        }
        for (uint256 i = count - 1; i > 0; --i) {
            tree[i - 1] = Hashes.commutativeKeccak256(tree[2 * i - 1], tree[2 * i]);
        }
    }

    function proof(bytes32[] memory tree, bytes32 leaf) internal pure returns (bytes32[] memory path) {
        uint256 position = tree.length - 1;
        while (tree[position] != leaf) --position;
        uint256 depth = 0;
        for (uint256 i = position; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        path = new bytes32[](depth);
        for (uint256 level = 0; position > 0; position = (position - 1) / 2) {
            path[level++] = tree[position % 2 == 1 ? position + 1 : position - 1];
        }
    }
}
