# Shared by the scripts beside it. To be sourced by bash.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/fieldproof
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
contracts=$root/prover/contracts
kafka_version=$(sed -n 's:.*<kafka\.version>\(.*\)</kafka\.version>.*:\1:p' "$root/benches/components/kafka/pom.xml")
kafka=$cache/kafka-$kafka_version
python=$cache/python/bin/python

have() {
    command -v "$1" >/dev/null
}

# Kafka 4 needs Java 17; the version line reads: openjdk version "17.0.15" 2025-04-15
have_java() {
    have java && [ "$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)" -ge 17 ]
}

have_node() {
    have node && have npm && [ "$(node --print 'parseInt(process.versions.node)')" -ge 20 ]
}

have_python() {
    have python3 && python3 -c 'import ensurepip, tomllib, venv' 2>/dev/null
}

# Something cannot be had: fatal in CI, otherwise only said.
left_out() {
    echo "left out: $*" >&2
    [ "${CI:-}" != true ] || exit 1
}
