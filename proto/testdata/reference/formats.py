"""Canonical bytes and digests (SPEC.md sections 1 to 7)."""

import json

import blake3

from . import curves

CONTEXTS = {
    "NETWORK": "fieldproof 2026-11 network id v1",
    "DEVICE": "fieldproof 2026-11 device id v1",
    "BATCH": "fieldproof 2026-11 batch v1",
    "REGISTRATION": "fieldproof 2026-11 registration v1",
    "REGISTRATION_DEVICE": "fieldproof 2026-11 registration device signature v1",
    "REGISTRATION_ADMITTER": "fieldproof 2026-11 registration admitter signature v1",
    "RECEIPT": "fieldproof 2026-11 receipt v1",
    "REJECTION": "fieldproof 2026-11 rejection v1",
    "CONTROL": "fieldproof 2026-11 control record v1",
    "CONTROL_STATE": "fieldproof 2026-11 control state v1",
    "TREE_LEAF": "fieldproof 2026-11 tree leaf v1",
    "TREE_NODE": "fieldproof 2026-11 tree node v1",
    "SEGMENT": "fieldproof 2026-11 segment v1",
    "EVIDENCE_ROOT": "fieldproof 2026-11 evidence root v1",
    "DEVICE_STATE": "fieldproof 2026-11 device state v1",
    "POLICY": "fieldproof 2026-11 policy v1",
    "MANIFEST": "fieldproof 2026-11 epoch manifest v1",
    "OBJECT": "fieldproof 2026-11 object v1",
}
READINGS_MAX = 16384
COLUMNS_MAX = 64
PAYLOAD_BYTES_MAX = 524288
TIME_MS_MAX = 253402300799999
U64_MAX = 2**64 - 1
ALGORITHMS = {"ed25519": 1, "p256": 2}


class Refused(Exception):
    """The input is not in the set that SPEC.md accepts."""


def need(condition, reason):
    if not condition:
        raise Refused(reason)


def accepts(function, *arguments):
    """Whether a parser takes the input."""
    try:
        function(*arguments)
    except Refused:
        return False
    return True


def digest(name, *parts):
    return blake3.blake3(b"".join(parts), derive_key_context=CONTEXTS[name]).digest()


# Section 1: integers and canonical JSON.

def le(value, width):
    return value.to_bytes(width, "little")


def put_bytes(data):
    return le(len(data), 4) + data


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(len(self.data) - self.at >= count, "short")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, width):
        return int.from_bytes(self.take(width), "little")

    def varint(self):
        start, value = self.at, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * (self.at - start - 1)
            need(value <= U64_MAX and self.at - start <= 10, "above 64 bits")
            if byte < 0x80:
                need(byte or self.at - start == 1, "not shortest")
                return value

    def end(self):
        need(self.at == len(self.data), "trailing")


def json_bytes(value, depth=0):
    """The canonical JSON of a value of dict, list, str, int, bool, None."""
    if isinstance(value, (dict, list)):
        need(depth < 127, "too deep")
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    if isinstance(value, int):
        need(abs(value) <= 2**53 - 1, "integer too large")
        return str(value).encode()
    if isinstance(value, str):
        return json_text(value)
    if isinstance(value, list):
        return b"[" + b",".join(json_bytes(item, depth + 1) for item in value) + b"]"
    need(isinstance(value, dict), "no canonical form")
    for key in value:
        need(key.isascii() and not key.startswith("$"), "key")
    members = (json_text(key) + b":" + json_bytes(value[key], depth + 1) for key in sorted(value))
    return b"{" + b",".join(members) + b"}"


def json_text(text):
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    out = "".join(short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text)
    try:
        return f'"{out}"'.encode()
    except UnicodeEncodeError as error:
        raise Refused("lone surrogate") from error


def json_parse(data):
    """The value of canonical JSON; refuses every other text."""
    def no_float(text):
        raise Refused(f"number {text}")
    try:
        value = json.loads(data.decode(), parse_float=no_float, parse_constant=no_float)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    need(json_bytes(value) == data, "not canonical")
    return value


def fields(value, **kinds):
    """Checks that an object has exactly these members, each of its kind."""
    need(isinstance(value, dict) and set(value) == set(kinds), "members")
    for name, kind in kinds.items():
        need(kind(value[name]), name)


def uint(bits):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**bits


def hexadecimal(width, prefix=""):
    def kind(value):
        return (isinstance(value, str) and len(value) == len(prefix) + 2 * width and value.startswith(prefix)
                and all(c in "0123456789abcdef" for c in value[len(prefix):]))
    return kind


def decimal(low, high):
    def kind(value):
        digits = value[1:] if isinstance(value, str) and value.startswith("-") else value
        return (isinstance(digits, str) and digits.isascii() and digits.isdigit()
                and str(int(value)) == value and low <= int(value) <= high)
    return kind


def text(value):
    return isinstance(value, str)


# Section 2: the keyed tree.

LEAF_KEY, NODE_KEY = digest("TREE_LEAF"), digest("TREE_NODE")


def tree_leaf(data):
    return blake3.blake3(data, key=LEAF_KEY).digest()


def tree_split(count):
    return 1 << (count - 1).bit_length() - 1


def tree_root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else bytes(32)
    at = tree_split(len(leaves))
    return blake3.blake3(tree_root(leaves[:at]) + tree_root(leaves[at:]), key=NODE_KEY).digest()


def tree_proof(leaves, index):
    if len(leaves) == 1:
        return []
    at = tree_split(len(leaves))
    if index < at:
        return tree_proof(leaves[:at], index) + [tree_root(leaves[at:])]
    return tree_proof(leaves[at:], index - at) + [tree_root(leaves[:at])]


# Section 3: names.

def parse_genesis(data):
    genesis = json_parse(data)
    fields(genesis, format=lambda v: v == "fieldproof-genesis-1", name=text, chain_id=uint(64),
           token=hexadecimal(20, "0x"), epochs=lambda v: isinstance(v, dict),
           partitions=lambda v: uint(32)(v) and v > 0, operator=hexadecimal(32))
    time = lambda v: uint(64)(v) and v <= TIME_MS_MAX
    fields(genesis["epochs"], start_ms=time, length_ms=lambda v: time(v) and v > 0, grace_ms=time, future_ms=time)
    return genesis


def device_id(public_key):
    """`public_key` is the algorithm byte and 33 bytes."""
    return digest("DEVICE", public_key)


def partition(device, count):
    return int.from_bytes(device[:8], "big") % count


# Section 4: device keys as 34 bytes.

def public_key(algorithm, secret):
    if algorithm == "ed25519":
        return b"\1" + curves.ed_public(secret) + b"\0"
    return b"\2" + curves.p256_public(int.from_bytes(secret, "big"))


def sign(algorithm, secret, message):
    if algorithm == "ed25519":
        return curves.ed_sign(secret, message)
    return curves.p256_sign(int.from_bytes(secret, "big"), message)


def key_is_valid(key):
    if key[0] == 1:
        return key[33] == 0 and curves.ed_key_is_valid(key[1:33])
    return curves.p256_point(key[1:]) is not None


def verify(key, message, signature):
    if not key_is_valid(key):
        return False
    if key[0] == 1:
        return curves.ed_verify(key[1:33], message, signature)
    return curves.p256_verify(key[1:], message, signature)


# Section 5: the batch.

def encode_payload(times, columns):
    """`columns` is a list of (metric, values), a value being an integer or None."""
    out = varint(len(times)) + varint(len(columns))
    out += b"".join(varint(after - before) for before, after in zip(times, times[1:]))
    for metric, values in columns:
        present = [value is not None for value in values]
        bits = sum(1 << index for index, is_present in enumerate(present) if is_present)
        out += varint(metric)
        out += b"\0" if all(present) else b"\1" + le(bits, (len(times) + 7) // 8)
        previous = 0
        for value in filter(lambda v: v is not None, values):
            difference = (value - previous + 2**63) % 2**64 - 2**63
            out += varint(difference * 2 if difference >= 0 else -difference * 2 - 1)
            previous = value
    return out


def decode_payload(data, first_time):
    need(len(data) <= PAYLOAD_BYTES_MAX, "payload too large")
    reader = Reader(data)
    time_count, column_count = reader.varint(), reader.varint()
    need(1 <= time_count <= READINGS_MAX and 1 <= column_count <= COLUMNS_MAX, "counts")
    times = [first_time]
    for _ in range(time_count - 1):
        step = reader.varint()
        need(step > 0, "time does not rise")
        times.append(times[-1] + step)
    need(times[-1] <= TIME_MS_MAX, "time beyond the year 9999")
    columns = []
    for _ in range(column_count):
        metric, presence = reader.varint(), reader.take(1)[0]
        need(metric < 2**32 and (not columns or columns[-1][0] < metric), "metric")
        bits = (1 << time_count) - 1
        if presence:
            bits, full = reader.number((time_count + 7) // 8), bits
            need(presence == 1 and 0 < bits < full, "presence")
        values, previous = [], 0
        for index in range(time_count):
            if not bits >> index & 1:
                values.append(None)
                continue
            coded = reader.varint()
            difference = -(coded + 1) // 2 if coded & 1 else coded // 2
            previous = (previous + difference + 2**63) % 2**64 - 2**63
            values.append(previous)
        columns.append((metric, values))
    reader.end()
    count = sum(value is not None for _, values in columns for value in values)
    need(1 <= count <= READINGS_MAX, "reading count")
    need(all(any(values[i] is not None for _, values in columns) for i in range(time_count)), "empty time")
    return times, columns, count


HEADER_FIELDS = [("registration", 4), ("boot", 8), ("seq", 8), ("previous", 0), ("reading_count", 4),
                 ("first_time_ms", 8), ("last_time_ms", 8), ("sealed", 0)]


def encode_header(tag, key, values):
    """`key` is 34 bytes; `values` maps the names of HEADER_FIELDS to integers or 32 bytes."""
    rest = (le(values[name], width) if width else values[name] for name, width in HEADER_FIELDS)
    return b"\1" + tag + key + b"".join(rest)


def parse_header(data):
    reader = Reader(data)
    need(reader.number(1) == 1, "version")
    header = {"tag": reader.take(4), "public_key": reader.take(34)}
    for name, width in HEADER_FIELDS:
        header[name] = reader.number(width) if width else reader.take(32)
    reader.end()
    need(header["public_key"][0] in (1, 2), "algorithm")
    need(header["registration"] > 0, "registration")
    need(1 <= header["reading_count"] <= READINGS_MAX, "reading count")
    need(header["first_time_ms"] <= header["last_time_ms"] <= TIME_MS_MAX, "times")
    need(header["boot"] != U64_MAX and header["seq"] != U64_MAX, "place")
    return header


def batch_digest(network, header, payload):
    return digest("BATCH", network, put_bytes(header), put_bytes(payload))


def parse_batch(network, header, payload):
    """The form of a batch; the signature is checked apart."""
    parsed = parse_header(header)
    need(parsed["tag"] == network[:4], "network")
    times, _, count = decode_payload(payload, parsed["first_time_ms"])
    need(times[-1] == parsed["last_time_ms"] and count == parsed["reading_count"], "mismatch")
    return parsed


def envelope(*parts):
    """Protobuf with bytes fields 1, 2, …; empty fields are absent."""
    numbered = enumerate(parts, 1)
    return b"".join(bytes([number << 3 | 2]) + varint(len(part)) + part for number, part in numbered if part)


def parse_envelope(data, count):
    """The parts of an envelope in its only valid form."""
    reader, parts, last = Reader(data), [b""] * count, 0
    while reader.at < len(data):
        tag = reader.varint()
        number = tag >> 3
        need(tag & 7 == 2 and last < number <= count, "field")
        parts[number - 1], last = reader.take(reader.varint()), number
        need(parts[number - 1], "empty field")
    return parts


# Section 6: registrations.

def encode_registration(values):
    return (b"\1" + values["public_key"] + le(values["counter"], 4) + values["provider"] + values["replaces"]
            + put_bytes(values["program"].encode()) + put_bytes(values["attributes"].encode()))


def is_program_name(name):
    return 1 <= len(name) <= 64 and all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in name)


def parse_registration(data):
    reader = Reader(data)
    need(reader.number(1) == 1, "version")
    values = {"public_key": reader.take(34), "counter": reader.number(4), "provider": reader.take(20),
              "replaces": reader.take(32)}
    program, attributes = reader.take(reader.number(4)), reader.take(reader.number(4))
    reader.end()
    need(values["public_key"][0] in (1, 2), "algorithm")
    need(values["counter"] > 0 and values["provider"] != bytes(20), "counter or provider")
    need(is_program_name(program.decode("latin-1")), "program")
    need(len(attributes) <= 1024 and isinstance(json_parse(attributes), dict), "attributes")
    return values | {"program": program.decode(), "attributes": attributes.decode()}


def word(value):
    return value.to_bytes(32, "big")


def address_word(address):
    return bytes(12) + address


def typed_digest(domain, struct_hash):
    return curves.keccak(b"\x19\x01" + domain + struct_hash)


def domain_separator(chain_id, contract=None):
    kind = "EIP712Domain(string name,string version,uint256 chainId"
    kind += ")" if contract is None else ",address verifyingContract)"
    words = curves.keccak(kind.encode()) + curves.keccak(b"Fieldproof") + curves.keccak(b"1") + word(chain_id)
    return curves.keccak(words + (b"" if contract is None else address_word(contract)))


REGISTRATION_TYPE = (b"Registration(bytes32 network,bytes32 device,uint32 counter,string program,"
                     b"bytes32 replaces,string attributes)")


def registration_digest(chain_id, network, values):
    words = [curves.keccak(REGISTRATION_TYPE), network, device_id(values["public_key"]), word(values["counter"]),
             curves.keccak(values["program"].encode()), values["replaces"],
             curves.keccak(values["attributes"].encode())]
    return typed_digest(domain_separator(chain_id), curves.keccak(b"".join(words)))


# Section 7: receipts and rejections.

def encode_receipt(v):
    return (b"\1" + v["network"] + le(v["generation"], 4) + le(v["partition"], 4) + le(v["offset"], 8) + v["device"]
            + le(v["boot"], 8) + le(v["from_seq"], 8) + le(v["to_seq"], 8) + v["digest"] + v["ingester"])


def encode_rejection(v):
    return (b"\1" + v["network"] + v["device"] + le(v["boot"], 8) + le(v["seq"], 8) + v["digest"]
            + le(v["code"], 2) + v["ingester"])


def receipt_is_valid(body, signature):
    """A receipt of 169 bytes that the ingester it names signed."""
    if len(body) != 169 or body[0] != 1 or body[89:97][::-1] > body[97:105][::-1]:
        return False
    return curves.ed_verify(body[137:], digest("RECEIPT", body), signature)


def rejection_is_valid(body, signature):
    """A rejection of 147 bytes that the ingester it names signed."""
    if len(body) != 147 or body[0] != 1 or not 1 <= int.from_bytes(body[113:115], "little") <= 6:
        return False
    return curves.ed_verify(body[115:], digest("REJECTION", body), signature)
