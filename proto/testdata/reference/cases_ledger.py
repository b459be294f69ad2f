"""Vectors of sections 9 to 15: control, evidence, epochs, allocation, objects, rewards."""

from . import curves, formats as f, ledger
from .cases_layouts import TIME, plain
from .cases_signed import ADMITTER, CHAIN_ID, INGESTER, KEYS, NETWORK, seed

OPERATOR = seed("operator")
ADDRESSES = [seed(f"address {number}", 20) for number in range(8)]
hex_address = lambda data: f"0x{data.hex()}"
hex_words = lambda words: [f"0x{one.hex()}" for one in words]

METRIC = {"kind": "metric", "id": 1, "name": "energy_exported", "unit": "Wh", "scale": 3, "metric_kind": "counter",
          "minimum": "0", "maximum": "1000000000000"}
GAUGE = METRIC | {"id": 10, "name": "temperature", "unit": "°C", "metric_kind": "gauge",
                  "minimum": str(-2**63), "maximum": str(2**63 - 1)}
PROGRAM = {"kind": "program", "name": "energy", "admitter": curves.ed_public(ADMITTER).hex(),
           "pool": str(ledger.AMOUNT_MAX), "readings_per_device_max": 7200, "devices_max": 1000000,
           "policy": {"policy_toml": "[policy]\nname = \"energy\"\n", "contribution_sql": "SELECT 1\n"}}
CERTIFIED = {"kind": "ingester", "key": curves.ed_public(INGESTER).hex()}
DISTRIBUTOR = {"kind": "distributor", "address": "0x" + "d1" * 20}


def control():
    bodies = [
        METRIC, GAUGE, PROGRAM, CERTIFIED, DISTRIBUTOR, METRIC | {"minimum": "5", "maximum": "5"},
        METRIC | {"minimum": "-1"}, METRIC | {"maximum": "-1"}, GAUGE | {"minimum": "1", "maximum": "0"},
        METRIC | {"minimum": 0}, METRIC | {"minimum": "+0"}, METRIC | {"minimum": "-0"}, METRIC | {"minimum": "00"},
        GAUGE | {"maximum": str(2**63)}, METRIC | {"scale": 256}, METRIC | {"id": 2**32}, METRIC | {"id": -1},
        METRIC | {"metric_kind": "Counter"}, METRIC | {"extra": 1}, {k: METRIC[k] for k in list(METRIC)[:-1]},
        PROGRAM | {"pool": "0"}, PROGRAM | {"pool": str(10**38)}, PROGRAM | {"pool": str(2**128)},
        PROGRAM | {"pool": "-1"}, PROGRAM | {"devices_max": 0}, PROGRAM | {"readings_per_device_max": 0},
        PROGRAM | {"name": ""}, PROGRAM | {"name": "Energy"}, PROGRAM | {"name": "e" * 65},
        PROGRAM | {"policy": PROGRAM["policy"] | {"more": ""}}, CERTIFIED | {"key": "AB" * 32},
        DISTRIBUTOR | {"address": "0x" + "D1" * 20}, DISTRIBUTOR | {"kind": "hold"}, {"kind": "metric"},
    ]
    cases = []
    for body in bodies:
        record = ledger.sign_control(NETWORK, body, OPERATOR)
        cases.append((ledger.control_digest(NETWORK, body), f.json_bytes(record)))
    good = ledger.sign_control(NETWORK, METRIC, OPERATOR)
    digest = ledger.control_digest(NETWORK, METRIC)
    odd = [good | {"signature": good["signature"].upper()}, good | {"signature": good["signature"][:-2]},
           good | {"extra": 1}, good | {"body": GAUGE}, ledger.sign_control(NETWORK, METRIC, ADMITTER),
           ledger.sign_control(bytes(32), METRIC, OPERATOR)]
    cases += [(digest, f.json_bytes(record)) for record in odd] + [(digest, f.json_bytes(good) + b" ")]
    operator = curves.ed_public(OPERATOR)
    return {"network": NETWORK.hex(), "secret": OPERATOR.hex(), "operator": operator.hex(),
            "cases": [{"text": text.decode(), "digest": digest.hex(),
                       "accept": f.accepts(ledger.parse_control, NETWORK, operator, text)} for digest, text in cases]}


def control_states():
    out = []
    for bodies in ([], [METRIC], [METRIC, METRIC | {"id": 2}, GAUGE, PROGRAM, PROGRAM | {"name": "a"}, CERTIFIED,
                                  CERTIFIED | {"key": "01" * 32}, CERTIFIED, DISTRIBUTOR, METRIC | {"scale": 0}]):
        text = f.json_bytes(ledger.control_state(bodies))
        out.append({"bodies": [f.json_bytes(body).decode() for body in bodies], "text": text.decode(),
                    "digest": f.digest("CONTROL_STATE", text).hex()})
    return out


def evidence():
    records = [
        {"key": f.device_id(KEYS["ed25519"]), "headers": [("kind", b"batch")], "value": b"value"},
        {"key": None, "headers": [("kind", b"tick")], "value": b""},
        {"key": None, "headers": [], "value": None},
        {"key": b"", "headers": [("kind", None), ("kind", b"batch"), ("é", b"")], "value": bytes(range(256))},
        *[{"key": bytes([n]), "headers": [("kind", b"registration"), ("n", bytes([n]))], "value": bytes(n * 100)}
          for n in range(4)],
    ]
    for number, record in enumerate(records):
        record |= {"offset": 1000 + number, "append_ms": TIME + number if number != 3 else -1}
    shown = []
    for record in records:
        data = ledger.record_bytes(record)
        shown.append({"offset": str(record["offset"]), "append_ms": str(record["append_ms"]),
                      "key": None if record["key"] is None else record["key"].hex(),
                      "headers": [[name, None if value is None else value.hex()] for name, value in record["headers"]],
                      "value": None if record["value"] is None else record["value"].hex(),
                      "hex": data.hex(), "leaf": f.tree_leaf(data).hex()})
    segments, previous = [], bytes(32)
    for count, partition in [(1, 0), (2, 0), (3, 7), (5, 7), (8, 2**32 - 1)]:
        leaves = [bytes.fromhex(record["leaf"]) for record in shown[:count]]
        name = {"generation": 1, "partition": partition, "first_offset": 1000, "next_offset": 1000 + count,
                "previous": previous}
        previous = ledger.segment_digest(name, leaves)
        stored = name | {"previous": name["previous"].hex()}
        folder = "control" if partition == 2**32 - 1 else partition
        segments.append({"name": f.json_bytes(stored).decode(), "records": count, "digest": previous.hex(),
                         "object": f"evidence/1/{folder}/{1000:020}.parquet"})
    digests = [bytes.fromhex(segment["digest"]) for segment in segments]
    roots = [{"segments": count, "root": ledger.evidence_root(digests[:count]).hex()} for count in range(6)]
    return {"records": shown, "segments": segments, "roots": roots}


def epochs():
    grids = [(TIME, 3600000, 600000, 60000), (1000, 100, 0, 0), (1000, 100, 250, 30), (1000, 100, 10, 350),
             (0, 10, 3, 1000), (5, 1, 0, 7)]
    out = []
    for grid in grids:
        start, length, grace, future = grid
        appends = sorted({max(-1, start + n * length + d) for n in range(-1, 6)
                          for d in (-1, 0, 1, grace - 1, grace, grace + 1)})
        times = sorted({max(0, start + n * length + d) for n in range(-1, 4) for d in (-1, 0, 1)})
        out.append({
            "grid": {"start_ms": start, "length_ms": length, "grace_ms": grace, "future_ms": future},
            "slot_after": [[current, append, ledger.slot_after(grid, current, append)]
                           for current in (0, 3) for append in appends],
            "epoch_of": [[time, ledger.epoch_of(grid, time)] for time in times],
            "first_slot_for": [[epoch, ledger.first_slot_for(grid, epoch)] for epoch in range(12)]})
    return out


def allocations():
    top = ledger.AMOUNT_MAX
    cases = [(0, [1, 2, 3]), (100, []), (100, [0, 0]), (100, [1]), (100, [1, 1, 1]), (2, [1, 1, 1]), (10, [1, 2, 4]),
             (7, [0, 5, 0, 5, 5]), (top, [top, top, top]), (top, [top, 1, 0, top - 1]), (1, [top, top]),
             (top, [1] * 7), (99, [10**37, 3, 10**38 - 1]), (top + 1, [1]), (1, [top + 1])]
    out = []
    for pool, weights in cases:
        named = dict(zip(ADDRESSES, weights))
        show = lambda amounts: {hex_address(address): str(amount) for address, amount in amounts.items()}
        fits = f.accepts(ledger.allocate, pool, named)
        out.append({"pool": str(pool), "weights": show(named),
                    "rewards": show(ledger.allocate(pool, named)) if fits else None})
    return out


def reward_trees():
    out = []
    for count in (1, 2, 3, 7):
        distributor, token = ADDRESSES[7], bytes.fromhex("5f" * 20)
        domain = ledger.domain_word(CHAIN_ID, distributor)
        amounts = [ledger.AMOUNT_MAX, 0, 1, 10**18, 2**64, 5, 5]
        cumulative = dict(zip(ADDRESSES, amounts[:count]))
        nodes, indices = ledger.reward_tree(domain, token, cumulative)
        leaves = [{"account": hex_address(a), "cumulative": str(amount), "leaf": "0x" + nodes[indices[a]].hex(),
                   "proof": hex_words(ledger.reward_proof(nodes, indices[a]))}
                  for a, amount in sorted(cumulative.items())]
        out.append({"chain_id": CHAIN_ID, "distributor": hex_address(distributor), "token": hex_address(token),
                    "domain": "0x" + domain.hex(), "root": "0x" + nodes[0].hex(), "leaves": leaves,
                    "dump": ledger.dump(domain, token, cumulative)})
    return out


def attestations():
    out = []
    for through, revision in ((0, 0), (2**53, 2**32 - 1)):
        a = {"through_epoch": through, "revision": revision, "root": seed("root"), "previous_root": bytes(32),
             "manifest": seed("manifest"), "leaf_count": 7, "token": ADDRESSES[0], "total": ledger.AMOUNT_MAX}
        digest = ledger.attestation_digest(CHAIN_ID, ADDRESSES[7], a)
        secret = int.from_bytes(seed("prover"), "big")
        out.append(plain(a) | {
            "chain_id": CHAIN_ID, "contract": hex_address(ADDRESSES[7]),
            "type_hash": curves.keccak(ledger.ATTESTATION_TYPE).hex(), "digest": digest.hex(),
            "domain_separator": f.domain_separator(CHAIN_ID, ADDRESSES[7]).hex(), "secret": seed("prover").hex(),
            "signer": hex_address(curves.evm_address(secret)), "signature": curves.evm_sign(secret, digest).hex()})
    return out


def objects():
    """Texts whose digests name objects."""
    contributions = {"program": "energy", "epoch": 1, "providers": [
        {"provider": hex_address(ADDRESSES[0]), "weight": "5", "reward": "100", "explanation": {"readings": "5"}}]}
    exclusions = {"partition": 0, "slot": 1, "records": [
        {"offset": 9, "verdict": "duplicate", "device": "01" * 32, "reason": "because"},
        {"offset": 10, "verdict": "malformed", "device": None, "reason": ""}]}
    values = {"contributions": contributions, "exclusions": exclusions}
    out = []
    for kind, value in values.items():
        text = f.json_bytes(value)
        out.append({"kind": kind, "text": text.decode(), "object": f.digest("OBJECT", text).hex(),
                    "manifest": f.digest("MANIFEST", text).hex()})
    return out
