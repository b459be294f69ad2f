#![allow(clippy::unwrap_used, reason = "a test")]

use alloy::sol_types::SolError as _;

use super::*;

#[test]
fn a_contract_error_is_told_with_its_values() {
    let error = Distributor::NotFunded { needed: U256::from(7), available: U256::from(5) };
    assert_eq!(error::revert_reason(&error.abi_encode()), "NotFunded { needed: 7, available: 5 }");
    assert_eq!(error::revert_reason(&[]), "no reason given, it may have run out of gas");
    assert_eq!(error::revert_reason(&[1, 2, 3, 4]), "error data 0x01020304");
}

#[test]
fn the_secret_parts_of_a_url_are_not_named() {
    let url = Url::parse("https://user:password@node.example:8545/v2/token?key=1").unwrap();
    assert_eq!(error::endpoint(&url), "https://node.example:8545");
}

#[tokio::test]
async fn an_unreachable_node_is_named_and_retryable_and_its_path_is_not_told() {
    // Port 1 is never listened on.
    let error = Chain::connect("http://127.0.0.1:1/secret-token", None).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("`http://127.0.0.1:1` does not answer `eth_chainId`: "), "{text}");
    assert!(!text.contains("secret-token"), "{text}");
}

#[tokio::test]
async fn what_is_no_url_is_refused() {
    for text in ["localhost:8545", "ws://127.0.0.1:1", ""] {
        let error = Chain::connect(text, None).await.unwrap_err();
        assert_eq!(error, ChainError::Url(text.to_owned()));
        assert!(!error.is_retryable());
    }
}

#[test]
fn a_transaction_of_claims_stays_below_the_cap() {
    for steps in [0, 1, 20, 64] {
        let count = u64::try_from(Chain::claims_per_transaction(steps)).unwrap();
        assert!(count > 30, "{steps} steps: {count}");
        assert!(count * (180_000 + 3_000 * steps as u64) + 100_000 <= 1 << 24);
    }
}
