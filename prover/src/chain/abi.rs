//! The contracts as their artifacts describe them.

#![allow(missing_docs, clippy::all)]

alloy::sol!(
    #[derive(Debug, PartialEq, Eq)]
    RewardDistributor,
    "contracts/artifacts/RewardDistributor.json"
);

alloy::sol!(
    #[derive(Debug, PartialEq, Eq)]
    TestToken,
    "contracts/artifacts/TestToken.json"
);
