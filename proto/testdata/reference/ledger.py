"""Control records, evidence, epochs, allocation and the reward tree (SPEC.md sections 9 to 15)."""

from fractions import Fraction

from . import curves
from .formats import (address_word, decimal, digest, domain_separator, fields, hexadecimal, is_program_name,
                      json_bytes, json_parse, le, need, put_bytes, text, tree_leaf, tree_root, typed_digest, uint,
                      word)

AMOUNT_MAX = 10**38 - 1


# Section 9: control records.

def check_metric(body):
    integer = decimal(-2**63, 2**63 - 1)
    fields(body, kind=text, id=uint(32), name=text, unit=text, scale=uint(8),
           metric_kind=lambda v: v in ("gauge", "counter"), minimum=integer, maximum=integer)
    low, high = int(body["minimum"]), int(body["maximum"])
    need(low <= high and (body["metric_kind"] == "gauge" or low >= 0), "range")


def check_program(body):
    positive = lambda value: uint(32)(value) and value > 0
    fields(body, kind=text, name=is_program_name, admitter=hexadecimal(32), pool=decimal(0, AMOUNT_MAX),
           readings_per_device_max=positive, devices_max=positive, policy=lambda v: isinstance(v, dict))
    fields(body["policy"], policy_toml=text, contribution_sql=text)


CONTROL_KINDS = {
    "metric": check_metric,
    "program": check_program,
    "ingester": lambda body: fields(body, kind=text, key=hexadecimal(32)),
    "distributor": lambda body: fields(body, kind=text, address=hexadecimal(20, "0x")),
}


def control_digest(network, body):
    return digest("CONTROL", network, json_bytes(body))


def sign_control(network, body, seed):
    return {"body": body, "signature": curves.ed_sign(seed, control_digest(network, body)).hex()}


def parse_control(network, operator, data):
    record = json_parse(data)
    fields(record, body=lambda v: isinstance(v, dict), signature=hexadecimal(64))
    body = record["body"]
    need(isinstance(body.get("kind"), str) and body["kind"] in CONTROL_KINDS, "kind")
    CONTROL_KINDS[body["kind"]](body)
    signature = bytes.fromhex(record["signature"])
    need(curves.ed_verify(operator, control_digest(network, body), signature), "signature")
    return body


def control_state(bodies):
    """The state that valid bodies make, in their order."""
    state = {"metrics": {}, "programs": {}, "ingesters": [], "distributor": None}
    for body in bodies:
        rest = {name: value for name, value in body.items() if name != "kind"}
        if body["kind"] == "metric":
            state["metrics"][str(body["id"])] = rest
        elif body["kind"] == "program":
            state["programs"][body["name"]] = rest
        elif body["kind"] == "ingester":
            state["ingesters"] = sorted({*state["ingesters"], body["key"]})
        else:
            state["distributor"] = body["address"]
    return state


# Section 10: evidence. Records are dictionaries; bytes or None where a field is optional.

def optional(data):
    return b"\0" if data is None else b"\1" + put_bytes(data)


def record_bytes(record):
    headers = b"".join(put_bytes(name.encode()) + optional(value) for name, value in record["headers"])
    append = record["append_ms"].to_bytes(8, "little", signed=True)
    return (le(record["offset"], 8) + append + optional(record["key"]) + le(len(record["headers"]), 4) + headers
            + optional(record["value"]))


def segment_digest(name, leaves):
    return digest("SEGMENT", le(name["generation"], 4), le(name["partition"], 4), le(name["first_offset"], 8),
                  le(name["next_offset"], 8), name["previous"], le(len(leaves), 8), tree_root(leaves))


def evidence_root(segments):
    return digest("EVIDENCE_ROOT", le(len(segments), 8), tree_root([tree_leaf(s) for s in segments]))


# Section 12: epochs, by search instead of by formula. A grid is (start, length, grace, future).

def close_ms(grid, slot):
    start, length, grace, _ = grid
    return start + (slot + 1) * length + grace


def slot_after(grid, current, append_ms):
    slot = current
    while max(append_ms, 0) >= close_ms(grid, slot):
        slot += 1
    return slot


def epoch_of(grid, time):
    start, length, _, _ = grid
    return None if time < start else next(k for k in range(10**6) if time < start + (k + 1) * length)


def first_slot_for(grid, epoch):
    """The slot of the earliest record that may hold a reading of the window's first millisecond."""
    start, length, _, future = grid
    return slot_after(grid, 0, start + epoch * length - future)


# Section 13: allocation.

def allocate(pool, weights):
    """`weights` maps addresses to weights."""
    need(all(0 <= value <= AMOUNT_MAX for value in [pool, *weights.values()]), "above 10^38 - 1")
    total = sum(weights.values())
    if total == 0:
        return {address: 0 for address in weights}
    exact = {address: Fraction(pool * weight, total) for address, weight in weights.items()}
    rewards = {address: share.numerator // share.denominator for address, share in exact.items()}
    by_remainder = sorted(weights, key=lambda address: (rewards[address] - exact[address], address))
    for address in by_remainder[:pool - sum(rewards.values())]:
        rewards[address] += 1
    return rewards


# Section 15: the reward tree.

def domain_word(chain_id, distributor):
    kind = curves.keccak(b"FieldproofRewards(uint256 chainId,address distributor)")
    return curves.keccak(kind + word(chain_id) + address_word(distributor))


def leaf_hash(domain, token, account, cumulative):
    encoded = domain + address_word(account) + address_word(token) + word(cumulative)
    return curves.keccak(curves.keccak(encoded))


def pair_hash(one, other):
    return curves.keccak(min(one, other) + max(one, other))


def reward_tree(domain, token, cumulative):
    """All nodes, and for each account the index of its leaf."""
    need(cumulative, "no leaves")
    hashes = {account: leaf_hash(domain, token, account, amount) for account, amount in cumulative.items()}
    nodes = [b""] * (len(hashes) - 1) + sorted(hashes.values(), reverse=True)
    for index in reversed(range(len(hashes) - 1)):
        nodes[index] = pair_hash(nodes[2 * index + 1], nodes[2 * index + 2])
    return nodes, {account: nodes.index(value, len(hashes) - 1) for account, value in hashes.items()}


def reward_proof(nodes, index):
    path = []
    while index:
        path.append(nodes[index + 1 if index % 2 else index - 1])
        index = (index - 1) // 2
    return path


def proof_is_valid(root, leaf, path):
    for sibling in path:
        leaf = pair_hash(leaf, sibling)
    return leaf == root


def dump(domain, token, cumulative):
    nodes, indices = reward_tree(domain, token, cumulative)
    values = [{"value": [str(int.from_bytes(domain, "big")), f"0x{account.hex()}", f"0x{token.hex()}", str(amount)],
               "treeIndex": indices[account]} for account, amount in sorted(cumulative.items())]
    return {"format": "standard-v1", "leafEncoding": ["uint256", "address", "address", "uint256"],
            "tree": [f"0x{node.hex()}" for node in nodes], "values": values}


ATTESTATION_TYPE = (b"RootAttestation(uint64 throughEpoch,uint32 revision,bytes32 root,bytes32 prevRoot,"
                    b"bytes32 manifest,uint64 leafCount,address token,uint256 total)")


def attestation_digest(chain_id, contract, a):
    words = [curves.keccak(ATTESTATION_TYPE), word(a["through_epoch"]), word(a["revision"]), a["root"],
             a["previous_root"], a["manifest"], word(a["leaf_count"]), address_word(a["token"]), word(a["total"])]
    return typed_digest(domain_separator(chain_id, contract), curves.keccak(b"".join(words)))
