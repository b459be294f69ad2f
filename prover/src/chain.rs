//! The chain: the only module that speaks to one, through JSON-RPC over HTTP.
//!
//! The same code runs against the embedded chain, anvil and a real node. Every question has a
//! deadline, every error names the node and says whether to ask again. Reading needs no key.

mod abi;
mod error;
mod posting;
mod send;

use std::{fmt, sync::Arc, sync::Once, time::Duration};

use alloy::{
    eips::{BlockId, BlockNumberOrTag},
    network::TransactionBuilder as _,
    primitives::{Address, B256, Bytes, TxKind, U256},
    providers::{Provider as _, ProviderBuilder, RootProvider},
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol_types::{SolCall, SolConstructor as _},
    transports::TransportError,
};
use fieldproof_proto::{evm::EvmSecret, ids::Digest};
use tokio::sync::Mutex;
use url::Url;

use self::{abi::RewardDistributor as Distributor, abi::TestToken, send::Draft};

pub use self::{
    error::ChainError,
    posting::{Claim, ClaimOutcome, ClaimedMany, PostedRoot},
};

/// How long a node may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node may take to answer one question.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A chain behind a JSON-RPC endpoint. Clones share the connection and the turn to send.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
    finality: Finality,
}

struct Inner {
    url: Url,
    provider: RootProvider,
    secret: Option<EvmSecret>,
    /// Held while a transaction is on its way: transactions of a key go one after the other.
    sending: Mutex<()>,
    chain_id: u64,
}

/// Which block counts as one that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finality {
    /// The newest. For chains that are never reorganised: the embedded one, anvil.
    Latest,
    /// The one that most of the stake has voted for once.
    Safe,
    /// The one that cannot be reverted without destroying a third of the stake.
    #[default]
    Finalized,
}

/// What a distributor is deployed with, and keeps for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributorTerms {
    /// The token that is paid.
    pub token: Address,
    /// The accounts of the provers, rising.
    pub attestors: Vec<Address>,
    /// How many of them must sign a root.
    pub threshold: u64,
    /// Seconds between posting a root and its first claim.
    pub activation_delay_seconds: u64,
    /// May disable roots and raise revisions.
    pub guardian: Address,
}

/// A root in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainRoot {
    /// Its place among all roots.
    pub index: u64,
    /// The root.
    pub root: B256,
    /// The digest of the manifest of its last epoch.
    pub manifest: Digest,
    /// The last epoch in it.
    pub through_epoch: u64,
    /// The revision of that epoch.
    pub revision: u32,
    /// It pays from this second on.
    pub active_at: u64,
    /// How many leaves it has.
    pub leaf_count: u64,
    /// The sum of its leaves.
    pub total: U256,
    /// Whether the guardian took it back.
    pub disabled: bool,
}

impl Chain {
    /// Connects to a node. With a key, the chain also takes transactions.
    pub async fn connect(rpc_url: &str, secret: Option<&EvmSecret>) -> Result<Self, ChainError> {
        install_tls_provider();
        let url = Url::parse(rpc_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| ChainError::Url(rpc_url.to_owned()))?;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .build()
            .map_err(|failed| ChainError::Client(failed.to_string()))?;
        let provider =
            ProviderBuilder::new().disable_recommended_fillers().connect_reqwest(client, url.clone());
        let chain_id = provider.get_chain_id().await;
        let chain_id = chain_id.map_err(|failed| error::from_rpc(&url, "eth_chainId", &failed))?;
        let secret = secret.cloned();
        let inner = Inner { url, provider, secret, sending: Mutex::new(()), chain_id };
        Ok(Self { inner: Arc::new(inner), finality: Finality::default() })
    }

    /// Refuses a node of another chain.
    pub fn expecting(self, chain_id: u64) -> Result<Self, ChainError> {
        if self.inner.chain_id == chain_id {
            return Ok(self);
        }
        Err(ChainError::ChainId { endpoint: self.endpoint(), expected: chain_id, found: self.inner.chain_id })
    }

    /// Takes this block for one that stays. Without it: the finalized one.
    pub fn with_finality(self, finality: Finality) -> Self {
        Self { finality, ..self }
    }

    /// The chain's id.
    pub fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }

    /// The account that sends transactions.
    pub fn sender(&self) -> Option<Address> {
        self.inner.secret.as_ref().map(EvmSecret::address)
    }

    /// The node, without the parts of its URL that may be secret.
    pub fn endpoint(&self) -> String {
        error::endpoint(&self.inner.url)
    }

    /// The number of the newest block.
    pub async fn block_number(&self) -> Result<u64, ChainError> {
        let number = self.inner.provider.get_block_number().await;
        number.map_err(|failed| self.rpc_error("eth_blockNumber", &failed))
    }

    /// The number of the newest block that stays.
    pub async fn final_block_number(&self) -> Result<u64, ChainError> {
        Ok(self.block_head(self.finality.tag()).await?.map_or(0, |(number, _)| number))
    }

    /// Deploys the token of development networks; the sender may mint.
    pub async fn deploy_test_token(&self) -> Result<Address, ChainError> {
        self.deploy("TestToken", TestToken::BYTECODE.clone()).await
    }

    /// Deploys a distributor.
    pub async fn deploy_distributor(&self, terms: &DistributorTerms) -> Result<Address, ChainError> {
        let arguments = Distributor::constructorCall {
            token_: terms.token,
            attestors_: terms.attestors.clone(),
            threshold_: U256::from(terms.threshold),
            activationDelay_: terms.activation_delay_seconds,
            guardian_: terms.guardian,
        };
        let code = [&Distributor::BYTECODE[..], &arguments.abi_encode()].concat();
        self.deploy("RewardDistributor", code.into()).await
    }

    /// What a distributor was deployed with.
    pub async fn distributor_terms(&self, distributor: Address) -> Result<DistributorTerms, ChainError> {
        let threshold = self.read(distributor, &Distributor::thresholdCall {}).await?;
        Ok(DistributorTerms {
            token: self.read(distributor, &Distributor::tokenCall {}).await?,
            attestors: self.read(distributor, &Distributor::attestorsCall {}).await?,
            threshold: self.u64_of::<Distributor::thresholdCall>(threshold)?,
            activation_delay_seconds: self.read(distributor, &Distributor::activationDelayCall {}).await?,
            guardian: self.read(distributor, &Distributor::guardianCall {}).await?,
        })
    }

    /// The first word of every leaf of a distributor.
    pub async fn domain(&self, distributor: Address) -> Result<B256, ChainError> {
        Ok(self.read(distributor, &Distributor::domainCall {}).await?.into())
    }

    /// Makes tokens of a [`Self::deploy_test_token`] for an account.
    pub async fn mint(&self, token: Address, to: Address, amount: U256) -> Result<(), ChainError> {
        self.write(token, &TestToken::mintCall { account: to, amount }, None).await.map(|_| ())
    }

    /// How many tokens an account holds.
    pub async fn token_balance(&self, token: Address, account: Address) -> Result<U256, ChainError> {
        self.read(token, &TestToken::balanceOfCall { account }).await
    }

    /// Takes back the root at `index` and all later ones. Only for the guardian's key.
    pub async fn disable_root(&self, distributor: Address, index: u64) -> Result<(), ChainError> {
        let call = Distributor::disableRootCall { index: U256::from(index) };
        self.write(distributor, &call, None).await.map(|_| ())
    }

    /// Makes `revision` the only one of an epoch that can be posted. Only for the guardian's key.
    pub async fn raise_revision(
        &self,
        distributor: Address,
        epoch: u64,
        revision: u32,
    ) -> Result<(), ChainError> {
        let call = Distributor::raiseRevisionCall { epoch, revision };
        self.write(distributor, &call, None).await.map(|_| ())
    }

    /// The only revision of an epoch that can be posted; none while a root of it is disabled.
    pub async fn open_revision(&self, distributor: Address, epoch: u64) -> Result<Option<u32>, ChainError> {
        let revision = self.read(distributor, &Distributor::currentRevisionCall { epoch }).await?;
        let disabled = Distributor::revisionDisabledCall { epoch, revision };
        Ok((!self.read(distributor, &disabled).await?).then_some(revision))
    }

    /// The root that the next one must build on, by the newest block.
    pub async fn live_root(&self, distributor: Address) -> Result<Option<ChainRoot>, ChainError> {
        self.live_root_at(distributor, BlockNumberOrTag::Latest).await
    }

    /// The same by the newest block that stays. A contract that is not deployed there has none.
    pub async fn final_live_root(&self, distributor: Address) -> Result<Option<ChainRoot>, ChainError> {
        match self.live_root_at(distributor, self.finality.tag()).await {
            Err(ChainError::NoContract { .. }) => Ok(None),
            other => other,
        }
    }

    /// All roots ever posted, disabled ones too.
    pub async fn roots(&self, distributor: Address) -> Result<Vec<ChainRoot>, ChainError> {
        let count = self.roots_count(distributor).await?;
        let mut roots = Vec::new();
        for index in 0..count {
            roots.push(self.root_at(distributor, index).await?);
        }
        Ok(roots)
    }

    /// The newest root whose last epoch is this one, disabled or not.
    pub async fn root_through(
        &self,
        distributor: Address,
        through_epoch: u64,
    ) -> Result<Option<ChainRoot>, ChainError> {
        for index in (0..self.roots_count(distributor).await?).rev() {
            let root = self.root_at(distributor, index).await?;
            if root.through_epoch == through_epoch {
                return Ok(Some(root));
            }
        }
        Ok(None)
    }

    /// The root at a place.
    pub async fn root_at(&self, distributor: Address, index: u64) -> Result<ChainRoot, ChainError> {
        self.root_in(distributor, index, BlockNumberOrTag::Latest).await
    }

    /// How many roots were ever posted.
    pub async fn roots_count(&self, distributor: Address) -> Result<u64, ChainError> {
        let count = self.read(distributor, &Distributor::rootsCountCall {}).await?;
        self.u64_of::<Distributor::rootsCountCall>(count)
    }

    /// How much an account was paid, over all roots.
    pub async fn claimed(&self, distributor: Address, account: Address) -> Result<U256, ChainError> {
        self.read(distributor, &Distributor::claimedCall { account }).await
    }

    /// How much all accounts were paid, over all roots.
    pub async fn total_claimed(&self, distributor: Address) -> Result<U256, ChainError> {
        self.read(distributor, &Distributor::totalClaimedCall {}).await
    }

    async fn live_root_at(
        &self,
        distributor: Address,
        block: BlockNumberOrTag,
    ) -> Result<Option<ChainRoot>, ChainError> {
        let live = self.read_at(distributor, &Distributor::lastLiveRootCall {}, block).await?;
        if !live.exists {
            return Ok(None);
        }
        let index = self.u64_of::<Distributor::lastLiveRootCall>(live.index)?;
        let root = self.root_in(distributor, index, block).await?;
        // Disabled between the two questions: the next look sees what is live then.
        Ok((!root.disabled).then_some(root))
    }

    async fn root_in(
        &self,
        distributor: Address,
        index: u64,
        block: BlockNumberOrTag,
    ) -> Result<ChainRoot, ChainError> {
        let call = Distributor::rootsCall(U256::from(index));
        let root = self.read_at(distributor, &call, block).await?;
        Ok(ChainRoot {
            index,
            root: root.root,
            manifest: Digest(root.manifest.0),
            through_epoch: root.throughEpoch,
            revision: root.revision,
            active_at: root.activeAt,
            leaf_count: root.leafCount,
            total: root.total,
            disabled: root.disabled,
        })
    }

    /// Number and time of a block, if the node has it.
    async fn block_head(&self, block: BlockNumberOrTag) -> Result<Option<(u64, u64)>, ChainError> {
        let found = self.inner.provider.get_block_by_number(block).await;
        let found = found.map_err(|failed| self.rpc_error("eth_getBlockByNumber", &failed))?;
        Ok(found.map(|found| (found.header.number, found.header.timestamp)))
    }

    async fn deploy(&self, name: &'static str, code: Bytes) -> Result<Address, ChainError> {
        let draft = Draft { method: name, to: TxKind::Create, input: code, gas_limit: None };
        let receipt = self.transact(draft).await?;
        receipt.contract_address.ok_or_else(|| self.impossible(name, "a deployment without an address"))
    }

    async fn read<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ChainError> {
        self.read_at(to, call, BlockNumberOrTag::Latest).await
    }

    async fn read_at<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        block: BlockNumberOrTag,
    ) -> Result<C::Return, ChainError> {
        let request = TransactionRequest::default().with_to(to).with_input(call.abi_encode());
        let answer = self.inner.provider.call(request).block(BlockId::Number(block)).await;
        let answer = answer.map_err(|failed| self.rpc_error(method::<C>(), &failed))?;
        if answer.is_empty() {
            let (endpoint, method) = (self.endpoint(), method::<C>().to_owned());
            return Err(ChainError::NoContract { address: to, endpoint, method });
        }
        C::abi_decode_returns(&answer).map_err(|failed| self.impossible(method::<C>(), &failed.to_string()))
    }

    async fn write<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        gas_limit: Option<u64>,
    ) -> Result<TransactionReceipt, ChainError> {
        let input = call.abi_encode().into();
        self.transact(Draft { method: method::<C>(), to: TxKind::Call(to), input, gas_limit }).await
    }

    fn u64_of<C: SolCall>(&self, value: U256) -> Result<u64, ChainError> {
        value.try_into().map_err(|_| self.impossible(method::<C>(), "a number above 2^64"))
    }

    fn rpc_error(&self, method: &str, failed: &TransportError) -> ChainError {
        error::from_rpc(&self.inner.url, method, failed)
    }

    fn impossible(&self, method: &str, reason: &str) -> ChainError {
        let (method, reason) = (method.to_owned(), reason.to_owned());
        ChainError::Answer { endpoint: self.endpoint(), method, reason }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Chain")
            .field("endpoint", &self.endpoint())
            .field("chain_id", &self.inner.chain_id)
            .field("sender", &self.sender())
            .field("finality", &self.finality)
            .finish()
    }
}

impl Finality {
    fn tag(self) -> BlockNumberOrTag {
        match self {
            Self::Latest => BlockNumberOrTag::Latest,
            Self::Safe => BlockNumberOrTag::Safe,
            Self::Finalized => BlockNumberOrTag::Finalized,
        }
    }
}

/// The name of a contract's method.
fn method<C: SolCall>() -> &'static str {
    C::SIGNATURE.split('(').next().unwrap_or(C::SIGNATURE)
}

/// Chooses the process's TLS implementation, if nothing else has.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("the process has chosen its TLS implementation already");
        }
    });
}

#[cfg(test)]
mod tests;
