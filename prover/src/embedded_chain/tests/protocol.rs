//! JSON-RPC as it is on the wire: codes, batches, notifications, limits, and questions about the
//! past.

use serde_json::{Value, json};

use super::super::EmbeddedChain;
use super::super::queries::LOGS_MAX;
use super::super::rpc::BATCH_CALLS_MAX;
use super::{TestToken, mint, provider, settings, sign, signer, transaction};
use alloy::providers::Provider;
use alloy_primitives::{Address, TxKind, hex};

/// A running chain with a token deployed in block 1 and five of it minted in block 2.
struct Fixture {
    chain: EmbeddedChain,
    client: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let directory = tempfile::tempdir().expect("a directory");
        let chain = EmbeddedChain::start(settings(directory.path())).await.expect("a chain");
        let fixture = Self { chain, client: reqwest::Client::new(), _directory: directory };
        let deploy = transaction(0, TxKind::Create, TestToken::BYTECODE.clone());
        let mint = transaction(1, TxKind::Call(token()), mint(signer(9).address(), 5));
        for transaction in [deploy, mint] {
            let raw = hex::encode_prefixed(sign(&signer(1), transaction));
            fixture.result("eth_sendRawTransaction", json!([raw])).await;
        }
        fixture
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        let sent = self.client.post(self.chain.url()).body(body).send().await.expect("answered");
        (sent.status().as_u16(), sent.text().await.expect("text"))
    }

    async fn json(&self, body: Value) -> Value {
        let (status, text) = self.post(body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.json(call).await
    }

    async fn result(&self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params).await;
        answer.get("result").cloned().unwrap_or_else(|| panic!("{method}: {answer}"))
    }

    async fn code(&self, method: &str, params: Value) -> i64 {
        let answer = self.call(method, params).await;
        answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("{method}: {answer}"))
    }
}

fn token() -> Address {
    signer(1).address().create(0)
}

#[tokio::test]
async fn plain_questions() {
    let fixture = Fixture::new().await;
    let (minter, token) = (signer(1).address(), token());
    let zero = "0x0000000000000000000000000000000000000000000000000000000000000000";
    let expected = [
        ("web3_clientVersion", json!([]), json!("fieldproof-embedded-chain/0.1.0")),
        ("net_version", json!([]), json!("31337")),
        ("eth_chainId", Value::Null, json!("0x7a69")),
        ("eth_syncing", json!([]), json!(false)),
        ("eth_accounts", json!([]), json!([])),
        ("eth_blockNumber", json!([]), json!("0x2")),
        ("eth_gasPrice", json!([]), json!("0x8")),
        ("eth_maxPriorityFeePerGas", json!([]), json!("0x1")),
        ("eth_getTransactionCount", json!([minter, "latest"]), json!("0x2")),
        ("eth_getTransactionCount", json!([minter, "pending"]), json!("0x2")),
        ("eth_getBalance", json!([Address::ZERO, "finalized"]), json!("0x0")),
        ("eth_getCode", json!([minter]), json!("0x")),
        ("eth_getStorageAt", json!([token, "0x7777", "0x2"]), json!(zero)),
        ("eth_getTransactionReceipt", json!([zero]), Value::Null),
        ("eth_getTransactionByHash", json!([zero]), Value::Null),
        ("eth_getBlockByNumber", json!(["0x3", true]), Value::Null),
        ("eth_getBlockByHash", json!([zero, false]), Value::Null),
        ("eth_getLogs", json!([{"fromBlock": "0x3", "toBlock": "latest"}]), json!([])),
        (
            "eth_feeHistory",
            json!(["0x1", "earliest", [20.0, 50.0]]),
            json!({
                "baseFeePerGas": ["0x7", "0x7"], "gasUsedRatio": [0.0], "oldestBlock": "0x0",
                "baseFeePerBlobGas": ["0x1", "0x1"], "blobGasUsedRatio": [0.0],
                "reward": [["0x0", "0x0"]],
            }),
        ),
    ];
    for (method, params, expected) in expected {
        assert_eq!(fixture.result(method, params).await, expected, "{method}");
    }
    let code = fixture.result("eth_getCode", json!([token])).await;
    assert!(code.as_str().is_some_and(|code| code.len() > 1000));
    let supply = json!({"to": token, "data": "0x18160ddd"});
    let supply = fixture.result("eth_call", json!([supply, "latest"])).await;
    assert_eq!(supply, json!(format!("0x{:064x}", 5)));
    fixture.chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let fixture = Fixture::new().await;
    let token = token();
    let supply = json!({"to": token, "data": "0x18160ddd"});
    let known = transaction(1, TxKind::Call(token), mint(signer(9).address(), 5));
    let known = hex::encode_prefixed(sign(&signer(1), known));
    let expected = [
        ("eth_noSuchMethod", json!([]), -32601),
        ("eth_getBalance", json!([]), -32602),
        ("eth_getBalance", json!({"address": token}), -32602),
        ("eth_getBalance", json!(["0x12"]), -32602),
        ("eth_call", json!([supply, "latest", {}]), -32602),
        ("eth_call", json!([{"to": token, "data": "0x00", "input": "0x01"}]), -32602),
        ("eth_getLogs", json!([{"fromBlock": "0x2", "toBlock": "0x1"}]), -32602),
        // State is kept for the latest block only, and an answer from another would be wrong.
        ("eth_call", json!([supply, "0x1"]), -32002),
        ("eth_getBalance", json!([token, "earliest"]), -32002),
        ("eth_getStorageAt", json!([token, "0x0", "0x0"]), -32002),
        ("eth_call", json!([supply, "0x3"]), -32001),
        ("eth_call", json!([supply, {"blockHash": format!("0x{:064x}", 1)}]), -32001),
        ("eth_getLogs", json!([{"blockHash": format!("0x{:064x}", 1)}]), -32001),
        // mint by somebody else reverts; an endless loop runs out of gas.
        ("eth_call", json!([{"to": token, "data": mint(token, 1)}]), 3),
        ("eth_estimateGas", json!([{"to": token, "data": mint(token, 1)}]), 3),
        ("eth_call", json!([{"data": "0x5b600056", "gas": "0x186a0"}]), -32000),
        ("eth_estimateGas", json!([{"data": "0xfe", "gas": "0x186a0"}]), -32000),
        ("eth_sendRawTransaction", json!([known]), -32000),
        ("eth_sendRawTransaction", json!(["0x02"]), -32000),
    ];
    for (method, params, expected) in expected {
        assert_eq!(fixture.code(method, params.clone()).await, expected, "{method} {params}");
    }
    let block = fixture.result("eth_getBlockByNumber", json!(["latest"])).await;
    let by_hash = json!([supply, {"blockHash": block["hash"]}]);
    assert_eq!(fixture.result("eth_call", by_hash).await, json!(format!("0x{:064x}", 5)));
    fixture.chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_question_may_speak_for_a_contract() {
    let fixture = Fixture::new().await;
    let call = json!([{"from": token(), "to": token(), "data": "0x18160ddd"}]);
    assert_eq!(fixture.result("eth_call", call).await, json!(format!("0x{:064x}", 5)));
    fixture.chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_question_with_a_tag_is_asked_now() {
    let fixture = Fixture::new().await;
    // NUMBER and TIMESTAMP into memory, and RETURN both as words.
    let code = json!({"data": "0x435f524260205260405ff3"});
    let ask = async |tag: Value| {
        let answer = fixture.result("eth_call", json!([code, tag])).await;
        let answer = hex::decode(answer.as_str().expect("text")).expect("hex");
        let word = |at: usize| u64::from_be_bytes(answer[at..at + 8].try_into().expect("8 bytes"));
        (word(24), word(56))
    };
    let block = fixture.result("eth_getBlockByNumber", json!(["latest"])).await;
    let mined = block["timestamp"].as_str().and_then(|it| it.strip_prefix("0x"));
    let mined = u64::from_str_radix(mined.expect("hex"), 16).expect("a number");
    assert_eq!(ask(json!("0x2")).await, (2, mined));
    let now = super::super::server::unix_seconds();
    let (number, timestamp) = ask(json!("latest")).await;
    assert!(number == 2 && timestamp >= now.max(mined));
    let (number, timestamp) = ask(json!("pending")).await;
    assert!(number == 3 && timestamp >= now.max(mined));
    fixture.chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn batches_notifications_and_nonsense() {
    let fixture = Fixture::new().await;
    let call = |id: Value| json!({"jsonrpc": "2.0", "id": id, "method": "eth_chainId"});
    let notification = json!({"jsonrpc": "2.0", "method": "eth_chainId"});
    let wrong = json!({"id": 3, "method": "nonsense"});
    let batch = json!([call(json!(1)), notification, 5, wrong, call(json!("b")), call(Value::Null)]);
    let answers = fixture.json(batch).await;
    let answers = answers.as_array().expect("a batch");
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &Value::Null, &json!(3), &json!("b"), &Value::Null]);
    assert_eq!(answers[1]["error"]["code"], -32600);
    assert_eq!(answers[2]["error"]["code"], -32601);
    assert_eq!(answers[3]["result"], "0x7a69");

    assert_eq!(fixture.post(notification.to_string()).await, (204, String::new()));
    assert_eq!(fixture.post(json!([notification]).to_string()).await, (204, String::new()));
    assert_eq!(fixture.json(json!([])).await["error"]["code"], -32600);
    let many = vec![call(json!(1)); BATCH_CALLS_MAX + 1];
    assert_eq!(fixture.json(json!(many)).await["error"]["code"], -32600);
    let (status, text) = fixture.post("{").await;
    assert!(status == 200 && text.contains("-32700"), "{text}");
    assert_eq!(fixture.post(vec![b' '; 3 << 20]).await.0, 413);
    let get = fixture.client.get(fixture.chain.url()).send().await.expect("answered");
    assert_eq!(get.status().as_u16(), 405);
    fixture.chain.stop().await.expect("stopped");
}

#[tokio::test]
async fn an_answer_with_too_many_logs_is_an_error() {
    let fixture = Fixture::new().await;
    // Creates 2,500 empty logs per transaction: PUSH2 2500, loop: LOG0, count down, until zero.
    let code = hex!("6109c45b5f5fa060019003806003575f5ff3");
    for nonce in 0..5 {
        let mut flood = transaction(nonce, TxKind::Create, code.to_vec());
        flood.gas_limit = 5_000_000;
        let raw = hex::encode_prefixed(sign(&signer(2), flood));
        fixture.result("eth_sendRawTransaction", json!([raw])).await;
    }
    let provider = provider(&fixture.chain, signer(1));
    let filter = alloy::rpc::types::Filter::new().from_block(3);
    let four = provider.get_logs(&filter.clone().to_block(6)).await.expect("logs");
    assert_eq!(four.len(), LOGS_MAX);
    assert_eq!(four[2_499].log_index, Some(2_499));
    let error = provider.get_logs(&filter).await.expect_err("too many");
    assert_eq!(error.as_error_resp().map(|error| error.code), Some(-32005));
    fixture.chain.stop().await.expect("stopped");
}
