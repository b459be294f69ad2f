"""Vectors of sections 5 to 7: payloads, headers, batches, registrations, receipts, rejections."""

from . import curves, formats as f
from .cases_signed import ADMITTER, CHAIN_ID, INGESTER, KEYS, NETWORK, PROVIDER, SECRETS, seed

I64_MIN, I64_MAX = -2**63, 2**63 - 1
TIME = 1760000000000
text = lambda value: None if value is None else str(value)


def plain(values):
    """A dictionary for JSON: bytes in hexadecimal, integers in digits."""
    return {k: v.hex() if isinstance(v, bytes) else v if isinstance(v, str) else str(v) for k, v in values.items()}


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


PAYLOADS = {
    "one reading": ([TIME], [(7, [0])]),
    "one column": ([TIME, TIME + 1000, TIME + 2000, TIME + 2001], [(1, [230, 231, 229, 229])]),
    "negative values": ([TIME, TIME + 1], [(0, [-1, -64]), (2**32 - 1, [-65, 64])]),
    "extremes": ([0, 1, 2, f.TIME_MS_MAX], [(3, [I64_MIN, I64_MAX, I64_MIN, 0]), (4, [I64_MAX, -1, 0, I64_MIN])]),
    "sparse": ([TIME + 7 * i for i in range(10)],
               [(1, [5, None, 6, None, 7, None, None, None, None, 8]), (2, [None] * 8 + [1, None]),
                (300, list(range(10)))]),
    "bitmap of whole bytes": ([TIME + i for i in range(8)], [(1, [1, None] * 4), (2, [None, -1] * 4)]),
    "all times in two halves": ([TIME, TIME + 5], [(1, [None, 1]), (9, [2, None])]),
    "64 columns": ([TIME], [(metric, [metric]) for metric in range(64)]),
    "steps of several bytes": ([0, 127, 255, 2**14 + 255, 2**35], [(1, [0, 63, 0, -8192, 8191])]),
}


def payloads():
    out = []
    for name, (times, columns) in PAYLOADS.items():
        data = f.encode_payload(times, columns)
        assert f.decode_payload(data, times[0])[:2] == (times, columns)
        out.append({"name": name, "times_ms": [str(time) for time in times], "hex": data.hex(),
                    "columns": [{"metric": metric, "values": [text(v) for v in vs]} for metric, vs in columns]})
    return out


def payload_rejects():
    v, b = f.varint, lambda *parts: b"".join(p if isinstance(p, bytes) else bytes([p]) for p in parts)
    head = lambda times, columns, steps=b"": v(times) + v(columns) + steps
    good = b(head(1, 1), 1, 0, 0)
    many = f.READINGS_MAX + 1
    cases = {
        "trailing byte": good + b"\0", "short": good[:-1], "no bytes": b"", "no times": b(0, 1, 1, 0),
        "no columns": b(1, 0), "65 columns": head(1, 65) + b"".join(v(m) + b"\0\0" for m in range(65)),
        "16385 times": b(head(many, 1, b"\1" * (many - 1)), 1, 0, b"\0" * many),
        "16385 readings": b(head(8193, 2, b"\1" * 8192), 1, 0, b"\0" * 8193, 2, 1,
                            f.le(2**8192 - 1, 1025), b"\0" * 8192),
        "time count of two bytes": b(0x81, 0, 1, 1, 0, 0), "column count of two bytes": b(1, 0x81, 0, 1, 0, 0),
        "metric of two bytes": b(1, 1, 0x81, 0, 0, 0), "value of two bytes": b(1, 1, 1, 0, 0x80, 0),
        "value of eleven bytes": b(1, 1, 1, 0, b"\x80" * 10, 1), "value of 65 bits": b(1, 1, 1, 0, b"\xff" * 9, 2),
        "value without end": b(1, 1, 1, 0, b"\xff" * 9), "step of zero": b(2, 1, 0, 1, 0, 0, 0),
        "step of two bytes": b(2, 1, 0x81, 0, 1, 0, 0, 0), "metric of 33 bits": b(1, 1, v(2**32), 0, 0),
        "equal metrics": b(1, 2, 1, 0, 0, 1, 0, 0), "falling metrics": b(1, 2, 2, 0, 0, 1, 0, 0),
        "presence 2": b(1, 1, 1, 2, 0), "full bitmap": b(2, 1, 1, 1, 1, 3, 0, 0),
        "empty bitmap": b(2, 2, 1, 1, 0, 0, 0, 2, 1, 0), "padding of ones": b(2, 2, 1, 1, 0, 0, 0, 2, 1, 5, 0),
        "empty time": b(2, 1, 1, 1, 1, 1, 0), "bitmap of one byte too few": b(9, 1, b"\1" * 8, 1, 1, 1),
        "more than 524288 bytes": good + bytes(f.PAYLOAD_BYTES_MAX),
    }
    out = [{"name": n, "first_time_ms": str(TIME), "hex": d.hex()} for n, d in cases.items() if len(d) < 70000]
    out += [{"name": "first time beyond the year 9999", "first_time_ms": str(f.TIME_MS_MAX + 1), "hex": good.hex()},
            {"name": "last time beyond the year 9999", "first_time_ms": str(f.TIME_MS_MAX),
             "hex": b(2, 1, 1, 1, 0, 0, 0).hex()},
            {"name": "step of 64 bits", "first_time_ms": str(TIME), "hex": b(2, 1, v(f.U64_MAX), 1, 0, 0, 0).hex()}]
    assert not any(f.accepts(f.decode_payload, bytes.fromhex(c["hex"]), int(c["first_time_ms"])) for c in out)
    return out


HEADER = {"registration": 1, "boot": 1760000001, "seq": 41, "previous": seed("previous"), "reading_count": 4,
          "first_time_ms": TIME, "last_time_ms": TIME + 2001, "sealed": bytes(32)}


def headers():
    out = []
    changes = [
        {}, {"registration": 2**32 - 1}, {"boot": f.U64_MAX - 1, "seq": f.U64_MAX - 1}, {"boot": 0, "seq": 0},
        {"reading_count": f.READINGS_MAX}, {"first_time_ms": 0}, {"first_time_ms": TIME, "last_time_ms": TIME},
        {"last_time_ms": f.TIME_MS_MAX}, {"sealed": seed("sealed"), "previous": bytes(32)},
        {"registration": 0}, {"boot": f.U64_MAX}, {"seq": f.U64_MAX}, {"reading_count": 0},
        {"reading_count": f.READINGS_MAX + 1}, {"last_time_ms": TIME - 1}, {"last_time_ms": f.TIME_MS_MAX + 1},
    ]
    for key in KEYS.values():
        for change in changes:
            values = HEADER | change
            data = f.encode_header(NETWORK[:4], key, values)
            out.append(plain(values) | {"tag": NETWORK[:4].hex(), "algorithm": key[0], "public_key": key[1:].hex(),
                                        "hex": data.hex(), "accept": f.accepts(f.parse_header, data)})
    good = f.encode_header(NETWORK[:4], KEYS["ed25519"], HEADER)
    odd = [good[:-1], good + b"\0", b"", b"\0" + good[1:], b"\2" + good[1:], good[:5] + b"\0" + good[6:],
           good[:5] + b"\3" + good[6:]]
    return out + [{"hex": data.hex(), "accept": f.accepts(f.parse_header, data)} for data in odd]


def batches():
    out = []
    for algorithm, key in KEYS.items():
        for name, (times, columns) in PAYLOADS.items():
            payload = f.encode_payload(times, columns)
            count = sum(value is not None for _, values in columns for value in values)
            header = f.encode_header(NETWORK[:4], key, HEADER | {
                "reading_count": count, "first_time_ms": times[0], "last_time_ms": times[-1]})
            digest = f.batch_digest(NETWORK, header, payload)
            signature = f.sign(algorithm, SECRETS[algorithm], digest)
            out.append({"name": name, "secret": SECRETS[algorithm].hex(), "algorithm": key[0],
                        "header": header.hex(), "payload": payload.hex(), "digest": digest.hex(),
                        "signature": signature.hex(), "envelope": f.envelope(header, payload, signature).hex(),
                        "accept": f.accepts(f.parse_batch, NETWORK, header, payload)})
    payload = f.encode_payload(*PAYLOADS["one column"])
    key = KEYS["ed25519"]
    for name, tag, change in [("another network", b"\0" * 4, {}), ("count differs", NETWORK[:4], {"reading_count": 5}),
                              ("last time differs", NETWORK[:4], {"last_time_ms": TIME + 2002}),
                              ("first time differs", NETWORK[:4], {"first_time_ms": TIME + 1})]:
        header = f.encode_header(tag, key, HEADER | change)
        digest = f.batch_digest(NETWORK, header, payload)
        signature = f.sign("ed25519", SECRETS["ed25519"], digest)
        out.append({"name": name, "algorithm": 1, "header": header.hex(), "payload": payload.hex(),
                    "digest": digest.hex(), "signature": signature.hex(),
                    "envelope": f.envelope(header, payload, signature).hex(),
                    "accept": f.accepts(f.parse_batch, NETWORK, header, payload)})
    return out


def envelopes():
    part = lambda number, data, kind=2: bytes([number << 3 | kind]) + f.varint(len(data)) + data
    one, two, three = part(1, b"header"), part(2, b"payload"), part(3, b"signature")
    cases = {
        "three parts": one + two + three, "no parts": b"", "two parts": one + three, "large": part(1, bytes(300)),
        "out of order": two + one + three, "twice": one + one + two + three, "empty field": one + b"\x12\0" + three,
        "unknown field": one + two + three + part(9, b"x"), "unknown number": one + b"\x20\1",
        "tag of two bytes": b"\x8a\0\6header", "length of two bytes": b"\x0a\x86\0header",
        "wrong wire type": b"\x08\1", "group": b"\x0b\x0c", "field 0": b"\2\1a", "short": one[:-1],
        "short length": b"\x0a", "length of 64 bits": b"\x0a" + f.varint(f.U64_MAX),
    }
    return [{"name": n, "hex": d.hex(), "accept": f.accepts(f.parse_envelope, d, 3)} for n, d in cases.items()]


def registrations():
    base = {"public_key": KEYS["ed25519"], "counter": 1, "provider": curves.evm_address(PROVIDER),
            "replaces": bytes(32), "program": "energy", "attributes": "{}"}
    changes = [
        {}, {"public_key": KEYS["p256"]}, {"counter": 2**32 - 1, "replaces": seed("replaces")},
        {"program": "a" * 64, "attributes": '{"hex":"8a2a1072b59ffff","n":[1,-2,{}],"z":"é"}'},
        {"attributes": '{"a":"' + "x" * 1016 + '"}'},
        {"counter": 0}, {"provider": bytes(20)}, {"program": ""}, {"program": "a" * 65}, {"program": "Energy"},
        {"program": "a_b"}, {"program": "é"}, {"attributes": ""}, {"attributes": "[]"}, {"attributes": '{"a": 1}'},
        {"attributes": '{"b":1,"a":1}'}, {"attributes": '{"a":1.5}'}, {"attributes": '{"$a":1}'},
        {"attributes": '{"a":"' + "x" * 1017 + '"}'}, {"attributes": '{"a":' + "[" * 127 + "]" * 127 + "}"},
        {"attributes": '{"a":' + "[" * 126 + "]" * 126 + "}"},
    ]
    out = []
    for change in changes:
        values = base | change
        body = f.encode_registration(values)
        algorithm = "ed25519" if values["public_key"][0] == 1 else "p256"
        device_digest = f.digest("REGISTRATION_DEVICE", NETWORK, body)
        admitter_digest = f.digest("REGISTRATION_ADMITTER", NETWORK, body)
        provider_digest = f.registration_digest(CHAIN_ID, NETWORK, values)
        parts = [body, f.sign(algorithm, SECRETS[algorithm], device_digest),
                 curves.evm_sign(PROVIDER, provider_digest), curves.ed_sign(ADMITTER, admitter_digest)]
        out.append(plain(values) | {
            "algorithm": values["public_key"][0], "public_key": values["public_key"][1:].hex(),
            "device_secret": SECRETS[algorithm].hex(), "body": body.hex(),
            "accept": f.accepts(f.parse_registration, body), "device_digest": device_digest.hex(),
            "admitter_digest": admitter_digest.hex(), "provider_digest": provider_digest.hex(),
            "device_signature": parts[1].hex(), "provider_signature": parts[2].hex(),
            "admitter_signature": parts[3].hex(), "envelope": f.envelope(*parts).hex()})
    good = f.encode_registration(base)
    odd = [good[:-1], good + b"\0", b"\2" + good[1:], b"\1\0" + good[2:], good[:92] + b"\xff" + good[93:],
           good[:-6] + f.put_bytes(b"\xff")]
    return out + [{"body": data.hex(), "accept": f.accepts(f.parse_registration, data)} for data in odd]


def receipts():
    base = {"network": NETWORK, "generation": 1, "partition": 11, "offset": 123456789,
            "device": f.device_id(KEYS["p256"]), "boot": 1760000001, "from_seq": 7, "to_seq": 41,
            "digest": seed("batch"), "ingester": curves.ed_public(INGESTER)}
    changes = [{}, {"from_seq": 41}, {"from_seq": 42}, {"offset": 2**63 - 1, "generation": 0},
               {"from_seq": 256, "to_seq": 257}, {"from_seq": 255, "to_seq": 256}]
    out = []
    for change in changes:
        values = base | change
        body = f.encode_receipt(values)
        out.append(plain(values) | signed(body, "RECEIPT", f.receipt_is_valid))
    body = f.encode_receipt(base)
    odd = [b"\0" + body[1:], body[:-1], body + b"\0", body[:-32] + KEYS["ed25519"][1:33], body[:-32] + bytes(32)]
    out += [signed(data, "RECEIPT", f.receipt_is_valid) for data in odd]
    stale = curves.ed_sign(INGESTER, f.digest("REJECTION", body))
    return out + [{"body": body.hex(), "signature": s.hex(), "accept": f.receipt_is_valid(body, s)}
                  for s in (stale, bytes(64), b"")]


def rejections():
    base = {"network": NETWORK, "device": f.device_id(KEYS["ed25519"]), "boot": 3, "seq": 9, "digest": seed("batch"),
            "ingester": curves.ed_public(INGESTER)}
    out = []
    for code in range(8):
        body = f.encode_rejection(base | {"code": code})
        out.append(plain(base | {"code": code}) | signed(body, "REJECTION", f.rejection_is_valid))
    body = f.encode_rejection(base | {"code": 1})
    odd = [b"\2" + body[1:], body[:-1], body + b"\0", flip(body, 114)]
    return out + [signed(data, "REJECTION", f.rejection_is_valid) for data in odd]


def signed(body, context, is_valid):
    signature = curves.ed_sign(INGESTER, f.digest(context, body))
    return {"body": body.hex(), "signature": signature.hex(), "accept": is_valid(body, signature)}
