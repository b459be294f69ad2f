// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Pays rewards that independent provers committed as Merkle roots
/// @notice A root commits, for each account, everything it has earned so far. So one claim pays all epochs
/// since the last one, and the same claim again pays nothing. A root is posted by anyone who carries the
/// signatures of more than half of the attestors, and pays after a delay in which the guardian can disable it.
/// Nobody, the guardian included, can take tokens out of this contract except by a claim, and a claim pays
/// only the account that its leaf names. There is no upgrade and no pause.
/// @dev The token must move exactly what it is told: no fee on transfer, no rebasing.
contract RewardDistributor is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice What attestors sign, as EIP-712 typed data (domain name "Fieldproof", version "1").
    /// @param throughEpoch the last epoch that the root includes
    /// @param revision which computation of that epoch this is; only the current one is accepted
    /// @param root root of the OpenZeppelin standard Merkle tree over (domain, account, token, cumulative)
    /// @param prevRoot the last live root, or zero if there is none
    /// @param manifest hash of the epoch manifest, which binds everything the root was computed from
    /// @param leafCount number of leaves
    /// @param token the token of every leaf; must be this distributor's
    /// @param total sum of `cumulative` over all leaves
    struct RootAttestation {
        uint64 throughEpoch;
        uint32 revision;
        bytes32 root;
        bytes32 prevRoot;
        bytes32 manifest;
        uint64 leafCount;
        address token;
        uint256 total;
    }

    /// @notice A posted root. Only `disabled` ever changes, and only to true.
    struct Root {
        bytes32 root;
        bytes32 manifest;
        uint64 throughEpoch;
        uint32 revision;
        uint64 activeAt;
        uint64 leafCount;
        bool disabled; // before `total`, so that a claim finds it in the slot of `activeAt`
        uint256 total;
    }

    /// @notice One item of `claimMany`, with the arguments of `claim`.
    struct Claim {
        uint256 rootIndex;
        address account;
        uint256 cumulative;
        bytes32[] proof;
    }

    bytes32 private constant _ATTESTATION_TYPEHASH = keccak256(
        "RootAttestation(uint64 throughEpoch,uint32 revision,bytes32 root,bytes32 prevRoot,bytes32 manifest,uint64 leafCount,address token,uint256 total)"
    );
    bytes32 private constant _DOMAIN_TYPEHASH = keccak256("FieldproofRewards(uint256 chainId,address distributor)");

    /// @notice The token that is paid out.
    IERC20 public immutable token;
    /// @notice How many attestors must sign a root; more than half of them.
    uint256 public immutable threshold;
    /// @notice Seconds between posting a root and its first claim.
    uint64 public immutable activationDelay;
    /// @notice May disable roots and raise revisions, nothing else.
    address public immutable guardian;

    address[] private _attestors;
    /// @notice Whether an account is one of the attestors.
    mapping(address account => bool) public isAttestor;

    /// @notice Every root ever posted, in order.
    Root[] public roots;
    /// @notice The one revision of an epoch that can be posted. Starts at 0; the guardian raises it.
    mapping(uint64 epoch => uint32) public currentRevision;
    /// @notice Whether the root of this epoch and revision was disabled. It cannot be posted again.
    mapping(uint64 epoch => mapping(uint32 revision => bool)) public revisionDisabled;

    /// @notice How much an account has been paid, over all roots.
    mapping(address account => uint256) public claimed;
    /// @notice How much all accounts have been paid, over all roots.
    uint256 public totalClaimed;

    /// @notice A root was posted at `index` and pays from `activeAt` on.
    event RootPosted(
        uint256 indexed index,
        uint64 indexed throughEpoch,
        bytes32 indexed root,
        bytes32 prevRoot,
        bytes32 manifest,
        uint32 revision,
        uint64 leafCount,
        uint256 total,
        uint64 activeAt
    );
    /// @notice The root at `index` will never pay again.
    event RootDisabled(uint256 indexed index, uint64 indexed throughEpoch, bytes32 indexed root, uint32 revision);
    /// @notice From now on only `revision` of `epoch` can be posted.
    event RevisionRaised(uint64 indexed epoch, uint32 revision);
    /// @notice `account` was paid `paid`, `cumulative` over all its claims.
    event RewardsClaimed(uint256 indexed rootIndex, address indexed account, uint256 paid, uint256 cumulative);
    /// @notice Item `item` of a `claimMany` was not paid; `reason` is the error it would have reverted with.
    event ClaimSkipped(uint256 indexed item, address indexed account, bytes reason);

    /// @notice The token's address holds no code.
    error NotAToken(address token);
    /// @notice The guardian is the zero address.
    error NoGuardian();
    /// @notice `threshold` is not more than half of the attestors, or more than all of them.
    error BadThreshold(uint256 threshold, uint256 attestors);
    /// @notice Attestors or signers are not in strictly ascending order, so perhaps not distinct.
    error NotAscending(address previous, address next);
    /// @notice `caller` is not the guardian.
    error NotGuardian(address caller);
    /// @notice Only this contract calls `claimItem`.
    error NotSelf(address caller);
    /// @notice The recovered signer is not an attestor.
    error NotAttestor(address signer);
    /// @notice Fewer signatures than the threshold.
    error TooFewSignatures(uint256 given, uint256 needed);
    /// @notice The root is zero.
    error EmptyRoot(uint64 throughEpoch);
    /// @notice The attestation is for another token.
    error WrongToken(address given, address expected);
    /// @notice The root does not reach past the last live one.
    error EpochNotAfter(uint64 given, uint64 last);
    /// @notice The root is of another revision than the current one of its epoch.
    error WrongRevision(uint64 epoch, uint32 given, uint32 current);
    /// @notice The root of this epoch and revision was disabled: the guardian must raise the revision first.
    error RevisionIsDisabled(uint64 epoch, uint32 revision);
    /// @notice A revision can only be raised.
    error RevisionNotRaised(uint64 epoch, uint32 given, uint32 current);
    /// @notice The root was not built on the last live one.
    error WrongPrevRoot(bytes32 given, bytes32 expected);
    /// @notice The total is below the last live root's, or below what has been paid already.
    error TotalDecreased(uint256 given, uint256 minimum);
    /// @notice The contract holds too little: `available` is its balance plus what it has paid.
    error NotFunded(uint256 needed, uint256 available);
    /// @notice There are only `count` roots.
    error UnknownRoot(uint256 index, uint256 count);
    /// @notice The root was disabled.
    error RootIsDisabled(uint256 index);
    /// @notice The root pays from `activeAt` on.
    error RootNotActive(uint256 index, uint64 activeAt);
    /// @notice The account cannot be paid: it is this contract.
    error BadAccount(address account);
    /// @notice The account has been paid this much or more already.
    error NothingToClaim(address account, uint256 cumulative, uint256 claimed);
    /// @notice The leaf is not in the root.
    error InvalidProof(uint256 rootIndex, bytes32 leaf);
    /// @notice The claim would pay out more than the root committed.
    error TotalExceeded(uint256 rootIndex, uint256 wouldBeClaimed, uint256 total);

    modifier onlyGuardian() {
        if (msg.sender != guardian) revert NotGuardian(msg.sender);
        _;
    }

    /// @param token_ the token that is paid out
    /// @param attestors_ accounts of the provers, strictly ascending
    /// @param threshold_ how many of them must sign: more than half
    /// @param activationDelay_ seconds between posting a root and its first claim
    /// @param guardian_ who may disable roots and raise revisions
    constructor(
        IERC20 token_,
        address[] memory attestors_,
        uint256 threshold_,
        uint64 activationDelay_,
        address guardian_
    ) EIP712("Fieldproof", "1") {
        if (address(token_).code.length == 0) revert NotAToken(address(token_));
        if (guardian_ == address(0)) revert NoGuardian();
        uint256 count = attestors_.length;
        if (threshold_ <= count / 2 || threshold_ > count) revert BadThreshold(threshold_, count);
        address previous; // the zero address, so that nobody can be it
        for (uint256 i = 0; i < count; ++i) {
            if (attestors_[i] <= previous) revert NotAscending(previous, attestors_[i]);
            previous = attestors_[i];
            isAttestor[previous] = true;
        }
        _attestors = attestors_;
        token = token_;
        threshold = threshold_;
        activationDelay = activationDelay_;
        guardian = guardian_;
    }

    /// @notice Posts the next root. Anyone may call: the signatures are the authority.
    /// @dev An attestation can be posted once: while its root is live the epoch is taken, afterwards the revision is.
    /// @param a the attestation; builds on the last live root, and the contract holds what it promises
    /// @param signatures 65-byte signatures of `attestationHash(a)`, strictly ascending by signer
    /// @return index where the root is in `roots`
    function postRoot(RootAttestation calldata a, bytes[] calldata signatures)
        external
        nonReentrant
        returns (uint256 index)
    {
        _checkNext(a);
        _checkSignatures(attestationHash(a), signatures);
        index = roots.length;
        uint64 activeAt = uint64(block.timestamp) + activationDelay;
        roots.push(Root(a.root, a.manifest, a.throughEpoch, a.revision, activeAt, a.leafCount, false, a.total));
        emit RootPosted(
            index, a.throughEpoch, a.root, a.prevRoot, a.manifest, a.revision, a.leafCount, a.total, activeAt
        );
    }

    /// @notice Disables the root at `index` and every later one, active or not. The next root builds on the
    /// last live one, and needs a raised revision if it ends with an epoch of a disabled one.
    /// @dev About 34,000 gas a root: to undo hundreds, start with a high index and come down. Repeating a call
    /// reverts, so that a late repeat cannot hit the roots posted since.
    function disableRoot(uint256 index) external onlyGuardian {
        if (_knownRoot(index).disabled) revert RootIsDisabled(index);
        for (uint256 i = roots.length; i > index; --i) {
            Root storage r = roots[i - 1];
            if (r.disabled) continue;
            r.disabled = true;
            revisionDisabled[r.throughEpoch][r.revision] = true;
            emit RootDisabled(i - 1, r.throughEpoch, r.root, r.revision);
        }
    }

    /// @notice Makes `revision` the only one of `epoch` that can be posted. Leaves posted roots alone.
    function raiseRevision(uint64 epoch, uint32 revision) external onlyGuardian {
        uint32 current = currentRevision[epoch];
        if (revision <= current) revert RevisionNotRaised(epoch, revision, current);
        currentRevision[epoch] = revision;
        emit RevisionRaised(epoch, revision);
    }

    /// @notice Pays `account` what it has earned up to `rootIndex` and not been paid yet. Anyone may call.
    /// @dev Claim against the newest active root: payments against it use up the smaller totals of older ones.
    /// @param rootIndex a live, active root
    /// @param account who earned it and is paid
    /// @param cumulative the amount in its leaf: everything it has earned so far
    /// @param proof sibling hashes from the leaf to the root
    /// @return paid how much the account received
    function claim(uint256 rootIndex, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint256 paid)
    {
        return _claim(rootIndex, account, cumulative, proof);
    }

    /// @notice Claims for many accounts. An item that cannot be paid, or was paid already, is skipped and does
    /// not hold up the others. One that runs out of gas counts as failed too: an empty reason.
    /// @return paid the sum of what was paid
    function claimMany(Claim[] calldata claims) external nonReentrant returns (uint256 paid) {
        for (uint256 i = 0; i < claims.length; ++i) {
            // A call of its own, so that an item which fails leaves nothing behind, not even in its token.
            try this.claimItem(claims[i]) returns (uint256 amount) {
                paid += amount;
            } catch (bytes memory reason) {
                emit ClaimSkipped(i, claims[i].account, reason);
            }
        }
    }

    /// @notice One item of `claimMany`; only this contract calls it.
    /// @dev Not `nonReentrant`: `claimMany` holds the lock, and no other path leads here.
    function claimItem(Claim calldata item) external returns (uint256 paid) {
        if (msg.sender != address(this)) revert NotSelf(msg.sender);
        return _claim(item.rootIndex, item.account, item.cumulative, item.proof);
    }

    /// @notice Whether the leaf of `account` and `cumulative` is in the root at `rootIndex`. Says nothing of
    /// whether that root is active, live, or has been claimed against.
    function verify(uint256 rootIndex, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        return MerkleProof.verifyCalldata(proof, _knownRoot(rootIndex).root, leafOf(account, cumulative));
    }

    /// @notice The attestors, ascending.
    function attestors() external view returns (address[] memory) {
        return _attestors;
    }

    /// @notice How many roots were ever posted, disabled ones included.
    function rootsCount() external view returns (uint256) {
        return roots.length;
    }

    /// @notice The root that the next one must build on.
    function lastLiveRoot() public view returns (bool exists, uint256 index) {
        for (uint256 i = roots.length; i > 0; --i) {
            if (!roots[i - 1].disabled) return (true, i - 1);
        }
    }

    /// @notice The hash that attestors sign.
    function attestationHash(RootAttestation calldata a) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(_ATTESTATION_TYPEHASH, a)));
    }

    /// @notice The first word of every leaf: binds it to this chain and this contract.
    function domain() public view returns (uint256) {
        return uint256(keccak256(abi.encode(_DOMAIN_TYPEHASH, block.chainid, address(this))));
    }

    /// @notice The leaf that says: `account` has earned `cumulative` so far. Hashed twice, so that it can never
    /// be read as an inner node of a tree.
    function leafOf(address account, uint256 cumulative) public view returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(domain(), account, token, cumulative))));
    }

    function _claim(uint256 rootIndex, address account, uint256 cumulative, bytes32[] calldata proof)
        private
        returns (uint256 paid)
    {
        Root storage r = _knownRoot(rootIndex);
        if (r.disabled) revert RootIsDisabled(rootIndex);
        if (block.timestamp < r.activeAt) revert RootNotActive(rootIndex, r.activeAt);
        // Paying ourselves would count as paid what never left, and so as funds what is not there.
        if (account == address(this)) revert BadAccount(account);
        uint256 before = claimed[account];
        if (cumulative <= before) revert NothingToClaim(account, cumulative, before);
        bytes32 leaf = leafOf(account, cumulative);
        if (!MerkleProof.verifyCalldata(proof, r.root, leaf)) revert InvalidProof(rootIndex, leaf);
        paid = cumulative - before;
        uint256 afterwards = totalClaimed + paid;
        if (afterwards > r.total) revert TotalExceeded(rootIndex, afterwards, r.total);

        claimed[account] = cumulative;
        totalClaimed = afterwards;
        emit RewardsClaimed(rootIndex, account, paid, cumulative);
        token.safeTransfer(account, paid);
    }

    function _checkNext(RootAttestation calldata a) private view {
        if (a.root == 0) revert EmptyRoot(a.throughEpoch);
        if (a.token != address(token)) revert WrongToken(a.token, address(token));
        uint32 current = currentRevision[a.throughEpoch];
        if (a.revision != current) revert WrongRevision(a.throughEpoch, a.revision, current);
        if (revisionDisabled[a.throughEpoch][current]) revert RevisionIsDisabled(a.throughEpoch, current);
        bytes32 prevRoot;
        uint256 minimum = totalClaimed; // exceeds the last live total if a disabled root overpaid
        uint256 available = token.balanceOf(address(this)) + minimum;
        (bool exists, uint256 last) = lastLiveRoot();
        if (exists) {
            Root storage previous = roots[last];
            if (a.throughEpoch <= previous.throughEpoch) revert EpochNotAfter(a.throughEpoch, previous.throughEpoch);
            prevRoot = previous.root;
            if (previous.total > minimum) minimum = previous.total;
        }
        if (a.prevRoot != prevRoot) revert WrongPrevRoot(a.prevRoot, prevRoot);
        if (a.total < minimum) revert TotalDecreased(a.total, minimum);
        if (a.total > available) revert NotFunded(a.total, available);
    }

    function _checkSignatures(bytes32 hash, bytes[] calldata signatures) private view {
        if (signatures.length < threshold) revert TooFewSignatures(signatures.length, threshold);
        address previous;
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recoverCalldata(hash, signatures[i]);
            if (signer <= previous) revert NotAscending(previous, signer);
            if (!isAttestor[signer]) revert NotAttestor(signer);
            previous = signer;
        }
    }

    function _knownRoot(uint256 index) private view returns (Root storage) {
        if (index >= roots.length) revert UnknownRoot(index, roots.length);
        return roots[index];
    }
}
