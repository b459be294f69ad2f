//! kill -9 at any moment: the next run goes on, and nothing is lost or counted twice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::process::{Running, of_kind, small_network};

const ROUNDS: u32 = 10;
const NETWORK: [&str; 6] = ["--epoch", "3s", "--devices", "16", "--providers", "4"];
/// About how long a whole run takes; kills are spread over it.
const RUN: Duration = Duration::from_millis(12_000);

#[test]
fn ten_kills_in_a_row_lose_and_double_nothing() {
    // The moments are new in every run of the test, and told, so that a failure can be repeated.
    let seed =
        std::env::var("FIELDPROOF_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
        });
    println!("FIELDPROOF_KILL_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().to_str().unwrap();
        let moment = RUN.mul_f64(random.random_range(0.02..1.0));
        println!("round {round}: killed after {moment:?}");
        let mut arguments =
            vec!["dev", "--epochs", "2", "--data-dir", data_dir, "--port", "0", "--output", "json"];
        arguments.extend(NETWORK);
        Running::start(&arguments).kill_after(moment);
        // Exit 0 says that every invariant held: D1, D2, C1, C2, C3, X2, R1, P1.
        let lines = small_network(directory.path(), "2", &NETWORK);
        let end = of_kind(&lines, "end")[0];
        assert_eq!(end["held"], true, "{lines:#?}");
        // The epochs that were final before the kill are final still.
        assert!(end["epochs_final"].as_u64() >= Some(2), "{lines:#?}");
    }
}
