// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title The token of development networks and tests
/// @notice Whoever deploys it makes as many tokens as they like: never use it where tokens are worth anything.
contract TestToken is ERC20 {
    /// @notice The only account that can mint: the deployer.
    address public immutable minter;

    /// @notice `caller` is not the minter.
    error NotMinter(address caller);

    /// @notice Makes the caller the minter.
    constructor() ERC20("Fieldproof Test Token", "FPT") {
        minter = msg.sender;
    }

    /// @notice Creates `amount` for `account`; only the minter may.
    function mint(address account, uint256 amount) external {
        if (msg.sender != minter) revert NotMinter(msg.sender);
        _mint(account, amount);
    }
}
