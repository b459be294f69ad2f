//! What the tests of the embedded chain share, and the tests through HTTP as clients use it.

mod durability;
mod protocol;

use std::path::Path;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::BlockId;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, TxSignerSync};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::types::{Filter, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};

use super::{EmbeddedChain, EmbeddedChainSettings};

const CHAIN_ID: u64 = 31_337;

alloy::sol!(
    #[sol(rpc)]
    #[derive(Debug, PartialEq)]
    TestToken,
    "contracts/artifacts/TestToken.json"
);

fn signer(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index)).expect("a small number is a key")
}

fn settings(directory: &Path) -> EmbeddedChainSettings {
    EmbeddedChainSettings {
        directory: directory.to_path_buf(),
        address: "127.0.0.1:0".parse().expect("an address"),
        chain_id: CHAIN_ID,
        funded: vec![signer(1).address(), signer(2).address()],
    }
}

/// An EIP-1559 transaction that pays enough gas for anything the tests do.
fn transaction(nonce: u64, to: TxKind, input: impl Into<Bytes>) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 3_000_000,
        max_fee_per_gas: 100,
        max_priority_fee_per_gas: 1,
        to,
        input: input.into(),
        ..TxEip1559::default()
    }
}

fn sign(signer: &PrivateKeySigner, mut transaction: TxEip1559) -> Vec<u8> {
    let signature = signer.sign_transaction_sync(&mut transaction).expect("a local key signs");
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

fn provider(chain: &EmbeddedChain, signer: PrivateKeySigner) -> DynProvider {
    // Another test may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let url = chain.url().parse().expect("the chain's URL");
    ProviderBuilder::new().wallet(EthereumWallet::from(signer)).connect_http(url).erased()
}

#[tokio::test]
async fn alloy_deploys_sends_reads_and_finds_logs() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let (minter, holder) = (signer(1).address(), signer(9).address());
    let provider = provider(&chain, signer(1));
    assert_eq!(provider.get_chain_id().await.expect("answer"), CHAIN_ID);
    let million = U256::from(10).pow(U256::from(24));
    assert_eq!(provider.get_balance(minter).await.expect("answer"), million);

    let token = TestToken::deploy(&provider).await.expect("deployed");
    assert_eq!(*token.address(), minter.create(0));
    let sent = token.mint(holder, U256::from(5)).send().await.expect("sent");
    let receipt = sent.get_receipt().await.expect("mined");
    assert!(receipt.status());
    assert_eq!(token.balanceOf(holder).call().await.expect("answer"), U256::from(5));
    let transfer = receipt.decoded_log::<TestToken::Transfer>().expect("an event");
    assert_eq!((transfer.to, transfer.value), (holder, U256::from(5)));
    assert_eq!((receipt.block_number, receipt.transaction_index), (Some(2), Some(0)));
    assert_eq!((receipt.effective_gas_price, receipt.to), (8, Some(*token.address())));
    let topics = [TestToken::Transfer::SIGNATURE_HASH, B256::ZERO, holder.into_word()];
    assert!(receipt.inner.logs_bloom().contains_raw_log(*token.address(), &topics));

    let mined = provider.get_transaction_by_hash(receipt.transaction_hash).await.expect("answer");
    assert_eq!(mined.expect("mined").inner.signer(), minter);
    let filter = Filter::new()
        .from_block(0)
        .address(*token.address())
        .event_signature(TestToken::Transfer::SIGNATURE_HASH)
        .topic2(holder.into_word());
    let logs = provider.get_logs(&filter).await.expect("answer");
    assert_eq!(logs, receipt.logs());
    assert_eq!((logs[0].block_hash, logs[0].log_index), (receipt.block_hash, Some(0)));
    let other = filter.topic2(minter.into_word());
    assert!(provider.get_logs(&other).await.expect("answer").is_empty());
    chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn alloy_decodes_a_contracts_own_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let token = TestToken::deploy(provider(&chain, signer(1))).await.expect("deployed");
    let stranger = signer(2).address();
    let token = TestToken::new(*token.address(), provider(&chain, signer(2)));

    let asked = token.transfer(signer(1).address(), U256::from(7)).from(stranger).call().await;
    let insufficient =
        TestToken::ERC20InsufficientBalance { sender: stranger, balance: U256::ZERO, needed: U256::from(7) };
    assert_eq!(asked.expect_err("no tokens").as_decoded_error(), Some(insufficient));
    // Sending fails when the gas is estimated, so nothing is mined and no nonce is used.
    let sent = token.mint(stranger, U256::from(1)).send().await;
    let denied = sent.expect_err("not the minter").as_decoded_error::<TestToken::NotMinter>();
    assert!(denied.is_some());
    // With the gas given it is mined as failed, as on any chain.
    let sent = token.mint(stranger, U256::from(1)).gas(100_000).send().await.expect("sent");
    let receipt = sent.get_receipt().await.expect("mined");
    assert!(!receipt.status());
    assert!(receipt.logs().is_empty() && receipt.gas_used < 100_000);
    let used = token.provider().get_transaction_count(stranger).await.expect("answer");
    assert_eq!(used, 1);
    chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn estimates_are_enough_and_not_much_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let provider = provider(&chain, signer(1));
    let (from, to) = (signer(1).address(), signer(8).address());
    let transfer = TransactionRequest::default().from(from).to(to).value(U256::from(1));
    assert_eq!(provider.estimate_gas(transfer).await.expect("answer"), 21_000);
    let token = TestToken::deploy(&provider).await.expect("deployed");
    let mint = token.mint(to, U256::from(1));
    let estimate = mint.estimate_gas().await.expect("answer");
    let receipt = mint.gas(estimate).send().await.expect("sent").get_receipt().await;
    let receipt = receipt.expect("mined");
    assert!(receipt.status() && receipt.gas_used <= estimate && estimate < 2 * receipt.gas_used);
    let unpaid = TransactionRequest::default().from(to).to(from).value(U256::from(1));
    let error = provider.estimate_gas(unpaid).await.expect_err("no funds").to_string();
    assert!(error.contains("insufficient funds for gas * price + value"), "{error}");
    chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn blocks_link_and_their_hashes_are_those_of_their_headers() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let provider = provider(&chain, signer(1));
    TestToken::deploy(&provider).await.expect("deployed");
    let transfer = TransactionRequest::default().to(signer(8).address()).value(U256::from(1));
    let sent = provider.send_transaction(transfer).await.expect("sent");
    sent.get_receipt().await.expect("mined");

    assert_eq!(provider.get_block_number().await.expect("answer"), 2);
    let mut parent = B256::ZERO;
    for number in 0..=2u64 {
        let block = provider.get_block(number.into()).full().await.expect("answer").expect("there");
        assert_eq!(block.header.inner.hash_slow(), block.header.hash);
        assert_eq!(block.header.parent_hash, parent);
        let signed = block.clone().map_transactions(|transaction| transaction.into_inner());
        assert_eq!(signed.calculate_transactions_root(), Some(block.header.transactions_root));
        let by_hash = provider.get_block_by_hash(block.header.hash).full().await.expect("answer");
        assert_eq!(by_hash.as_ref(), Some(&block));
        parent = block.header.hash;
    }
    for tag in [BlockId::latest(), BlockId::safe(), BlockId::finalized(), BlockId::pending()] {
        let block = provider.get_block(tag).await.expect("answer").expect("there");
        assert_eq!((block.header.number, block.header.hash), (2, parent));
    }
    assert_eq!(provider.get_block(3u64.into()).await.expect("answer"), None);
    chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_restarted_chain_answers_as_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let before = provider(&chain, signer(1));
    let token = TestToken::deploy(&before).await.expect("deployed");
    let sent = token.mint(signer(9).address(), U256::from(3)).send().await.expect("sent");
    let receipt = sent.get_receipt().await.expect("mined");
    chain.stop().await.expect("stopped");

    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let after = provider(&chain, signer(1));
    let again = after.get_transaction_receipt(receipt.transaction_hash).await.expect("answer");
    assert_eq!(again, Some(receipt));
    let token = TestToken::new(*token.address(), &after);
    assert_eq!(token.totalSupply().call().await.expect("answer"), U256::from(3));
    let sent = token.mint(signer(9).address(), U256::from(3)).send().await.expect("sent");
    assert!(sent.get_receipt().await.expect("mined").status());
    chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_chain_that_is_dropped_frees_its_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    let second = EmbeddedChain::start(settings(directory.path())).await;
    let error = second.expect_err("one chain per directory").to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    let EmbeddedChain { shutdown, server, node, inbox, .. } = chain;
    drop((shutdown, inbox));
    server.await.expect("no panic").expect("served");
    node.await.expect("no panic");
    let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
    chain.stop().await.expect("stopped");
}

/// Input that makes the token mint, for transactions signed by hand.
fn mint(account: Address, amount: u64) -> Bytes {
    TestToken::mintCall { account, amount: U256::from(amount) }.abi_encode().into()
}

fn hash_of(raw: &[u8]) -> B256 {
    keccak256(raw)
}
