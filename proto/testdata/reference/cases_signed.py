"""Vectors of sections 2 to 7: digests, names, signatures, batches, registrations, receipts."""

import hashlib

from . import curves, formats as f
from .curves import BASE, IDENTITY, L, P, P256, SECP256K1


def seed(label, width=32):
    return hashlib.shake_256(f"fieldproof vectors: {label}".encode()).digest(width)


def scalar(label):
    return int.from_bytes(seed(label), "big") % (SECP256K1.n - 1) + 1


NETWORK = seed("network")
CHAIN_ID = 31337
SECRETS = {"ed25519": seed("ed25519 device"), "p256": seed("p256 device")}
KEYS = {name: f.public_key(name, secret) for name, secret in SECRETS.items()}
PROVIDER, ADMITTER, INGESTER = scalar("provider"), seed("admitter"), seed("ingester")


def contexts():
    pairs = f.CONTEXTS.items()
    return [{"name": name, "context": text, "empty": f.digest(name).hex(), "abc": f.digest(name, b"abc").hex()}
            for name, text in pairs]


def trees():
    out = []
    for count in (0, 1, 2, 3, 4, 5, 7, 8, 13):
        leaves = [f.tree_leaf(bytes([index]) * index) for index in range(count)]
        proofs = [[node.hex() for node in f.tree_proof(leaves, index)] for index in range(count)]
        out.append({"leaves": [leaf.hex() for leaf in leaves], "root": f.tree_root(leaves).hex(), "proofs": proofs})
    return out


def canonical_json():
    texts = [
        b"{}", b"[]", b"null", b"true", b'""', b"0", b"-1", b"9007199254740991", b"-9007199254740991",
        b'{"a":1,"b":[1,2,{"c":null}]}', b'{"A":1,"a":2}', b'{"":0}', '"é€𐍈\x7f"'.encode(),
        b'"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\/"', b'{"a\\n":1}', b"[" * 127 + b"]" * 127,
        b'{"a":' * 126 + b"[]" + b"}" * 126,
        b"[" * 128 + b"]" * 128, b'{"b":1,"a":2}', b'{"a":1, "b":2}', b'{"a":1}\n', b" {}", b'{"a":1,"a":1}',
        b'{"a":1,"a":2}', b"1.0", b"1e2", b"1E2", b"-0", b"0.0", b"01", b"+1", b"9007199254740992",
        b"-9007199254740992", b"18446744073709551615", b"18446744073709551616", b"1e400", b"NaN", b"Infinity",
        b'"\\/"', b'"\\u0041"', b'"\\u001F"', b'"\\u0008"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\n"', b"\xff",
        b'"\xc3\x28"', '{"é":1}'.encode(), b'{"$a":1}', b'{"a":{"$serde_json::private::RawValue":"1"}}',
        b'{"a":{"$serde_json::private::Number":"1"}}', b"", b"{", b"{}{}", b"tru", b"\xef\xbb\xbf{}", b"'a'",
    ]
    return [{"hex": t.hex(), "accept": f.accepts(f.json_parse, t)} for t in texts]


def genesis():
    good = {"format": "fieldproof-genesis-1", "name": "testnet", "chain_id": CHAIN_ID, "token": "0x" + "5f" * 20,
            "epochs": {"start_ms": 1760000000000, "length_ms": 3600000, "grace_ms": 600000, "future_ms": 60000},
            "partitions": 12, "operator": curves.ed_public(seed("operator")).hex()}
    epochs = lambda **change: good | {"epochs": good["epochs"] | change}
    values = [good, good | {"name": "Zürich \"7\""}, epochs(start_ms=0, length_ms=1, grace_ms=0, future_ms=0),
              epochs(length_ms=0), epochs(start_ms=f.TIME_MS_MAX), epochs(start_ms=f.TIME_MS_MAX + 1),
              epochs(extra=1), good | {"partitions": 0}, good | {"partitions": 2**32}, good | {"chain_id": "1"},
              good | {"chain_id": -1}, good | {"token": "0x" + "5F" * 20}, good | {"token": "5f" * 20},
              good | {"operator": "AB" * 32}, good | {"operator": "ab" * 31}, good | {"format": "fieldproof-genesis-2"},
              good | {"extra": None}, {k: v for k, v in good.items() if k != "name"}]
    texts = [f.json_bytes(value) for value in values] + [f.json_bytes(good) + b"\n"]
    return [{"text": t.decode(), "accept": f.accepts(f.parse_genesis, t), "network_id": f.digest("NETWORK", t).hex()}
            for t in texts]


def devices():
    out = []
    for algorithm in f.ALGORITHMS:
        for number in range(3):
            secret = seed(f"{algorithm} {number}")
            key = f.public_key(algorithm, secret)
            device = f.device_id(key)
            out.append({"algorithm": f.ALGORITHMS[algorithm], "secret": secret.hex(), "public_key": key[1:].hex(),
                        "device_id": device.hex(),
                        "partitions": {str(n): f.partition(device, n) for n in (1, 2, 7, 12, 256, 2**32 - 1)}})
    return out


def signature_case(name, key, message, signature):
    return {"name": name, "algorithm": key[0], "public_key": key[1:].hex(), "message": message.hex(),
            "signature": signature.hex(), "key_accept": f.key_is_valid(key),
            "accept": f.verify(key, message, signature)}


def torsion_point():
    """A point of order 8, from the first point whose order is not the group's."""
    y = 2
    while True:
        x = curves.ed_x(y, 0)
        point = None if x is None else curves.ed_mul(L, (x, y))
        if point and curves.ed_mul(4, point) != IDENTITY:
            return point
        y += 1


def ed25519_edges():
    message, a = seed("message"), scalar("edge a") % L
    torsion = [curves.ed_mul(index, torsion_point()) for index in range(8)]
    honest = curves.ed_mul(a, BASE)
    key_of = lambda data: b"\1" + data + b"\0"

    def forge(name, point, key_torsion, wanted, encoding=None):
        """Searches a nonce for which `wanted(k, j)` holds and R = rB + torsion[j], or R = `encoding`."""
        key = key_of(curves.ed_encode(curves.ed_add(point, torsion[key_torsion])))
        for attempt in range(4096):
            nonce, j = attempt + 1 if encoding is None else 0, attempt % 8
            r_point = curves.ed_add(curves.ed_mul(nonce, BASE), torsion[j])
            r = curves.ed_encode(r_point) if encoding is None else encoding
            k = curves.ed_challenge(r, key[1:33], message)
            if wanted(k, j):
                s = (nonce + k * a) % L if point != IDENTITY else nonce
                return signature_case(name, key, message, r + s.to_bytes(32, "little"))
        raise AssertionError(name)

    out = [
        forge("mixed-order key, equation holds", honest, 1, lambda k, j: (k + j) % 8 == 0 and j),
        forge("mixed-order key, honest R, equation holds", honest, 1, lambda k, j: k % 8 == 0 and j == 0),
        forge("mixed-order key, only the cofactored equation holds", honest, 1, lambda k, j: (k + j) % 8 and j == 0),
        forge("mixed-order R, only the cofactored equation holds", honest, 0, lambda k, j: j == 1),
        forge("R is the identity", honest, 0, lambda k, j: True, curves.ed_encode(IDENTITY)),
        forge("R is the identity written as p + 1", honest, 0, lambda k, j: True, (P + 1).to_bytes(32, "little")),
        forge("R is the identity with the sign bit", honest, 0, lambda k, j: True, (1 | 1 << 255).to_bytes(32, "little")),
        forge("R is no point", honest, 0, lambda k, j: True, bytes([2]) + bytes(31)),
    ]
    for index in range(8):
        name = f"key of small order {index}"
        out.append(forge(name, IDENTITY, index, lambda k, j, i=index: (k * i + j) % 8 == 0))
    # A small-order R under a mixed-order key such that the cofactorless equation holds.
    for attempt in range(64):
        point = curves.ed_add(curves.ed_mul(a + attempt, BASE), torsion[1])
        key = key_of(curves.ed_encode(point))
        for j in range(8):
            r = curves.ed_encode(torsion[j])
            k = curves.ed_challenge(r, key[1:33], message)
            if j and (k + j) % 8 == 0:
                s = (k * (a + attempt)) % L
                out.append(signature_case("R of small order, equation holds", key, message, r + s.to_bytes(32, "little")))
                break
        if out[-1]["name"].startswith("R of small"):
            break
    for y in range(19):
        for sign in (0, 1):
            encoding = (P + y | sign << 255).to_bytes(32, "little")
            if curves.ed_x(y, sign) is not None or y == 1:
                out.append(signature_case(f"key written with y = p + {y}, sign {sign}", key_of(encoding), message,
                                          curves.ed_encode(BASE) + (1).to_bytes(32, "little")))
    for name, number in [("1 with the sign bit", 1 | 1 << 255), ("p - 1 with the sign bit", P - 1 | 1 << 255),
                         ("no point", 2)]:
        out.append(signature_case(f"key is {name}", key_of(number.to_bytes(32, "little")), message, bytes(64)))
    return out


def ed25519_cases():
    secret, key, message = SECRETS["ed25519"], KEYS["ed25519"], seed("message")
    good = curves.ed_sign(secret, message)
    r, s = good[:32], int.from_bytes(good[32:], "little")
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
    with_s = lambda value: r + value.to_bytes(32, "little")
    return [
        signature_case("valid", key, message, good),
        signature_case("another message", key, flip(message, 0), good),
        signature_case("another key", f.public_key("ed25519", seed("other")), message, good),
        signature_case("R changed", key, message, flip(good, 3)),
        signature_case("S changed", key, message, flip(good, 40)),
        signature_case("S + L", key, message, with_s(s + L)),
        signature_case("S + 8L", key, message, with_s(s + 8 * L)),
        signature_case("S = L", key, message, with_s(L)),
        signature_case("S = 0", key, message, with_s(0)),
        signature_case("S of all ones", key, message, with_s(2**256 - 1)),
        signature_case("63 bytes", key, message, good[:63]),
        signature_case("65 bytes", key, message, good + b"\0"),
        signature_case("no bytes", key, message, b""),
        signature_case("33rd byte is not zero", key[:33] + b"\1", message, good),
        *ed25519_edges(),
    ]


def p256_cases():
    secret, key, message = int.from_bytes(SECRETS["p256"], "big"), KEYS["p256"], seed("message")
    n, half = P256.n, P256.n // 2
    good = curves.p256_sign(secret, message)
    r, s = int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big")
    join = lambda r, s: r.to_bytes(32, "big") + s.to_bytes(32, "big")
    x = int.from_bytes(key[2:], "big")
    small = next(x for x in range(1, 99) if P256.lift(x, 0))
    off_curve = next(x for x in range(1, 99) if not P256.lift(x, 0))

    def crafted(name, s):
        """A key for which this s is the valid one."""
        nonce, z = 12345, int.from_bytes(hashlib.sha256(message).digest(), "big")
        r = P256.mul(nonce, P256.base)[0] % n
        return signature_case(name, b"\2" + curves.p256_public((s * nonce - z) * pow(r, -1, n) % n), message, join(r, s))

    r2, s2, _ = P256.sign(secret, message)
    coded = lambda tag, x: b"\2" + bytes([tag]) + x.to_bytes(32, "big")
    return [
        signature_case("valid", key, message, good),
        signature_case("high s", key, message, join(r, n - s)),
        crafted("s at the half", half), crafted("s above the half", half + 1), crafted("s = 1", 1),
        signature_case("another message", key, seed("other"), good),
        signature_case("key with the other sign", coded(5 - key[1], x), message, good),
        signature_case("r = 0", key, message, join(0, s)), signature_case("s = 0", key, message, join(r, 0)),
        signature_case("r = n", key, message, join(n, s)), signature_case("s = n", key, message, join(r, n)),
        signature_case("signed without SHA-256", key, message, join(r2, s2)),
        signature_case("63 bytes", key, message, good[1:]), signature_case("65 bytes", key, message, b"\0" + good),
        *[signature_case(f"key with tag {tag}", coded(tag, x), message, good) for tag in (0, 1, 4, 5, 6, 7)],
        signature_case("key with x above p", coded(2, small + P256.p), message, good),
        signature_case("key with small x", coded(2, small), message, good),
        signature_case("key off the curve", coded(2, off_curve), message, good),
        signature_case("key of zeros", b"\2" + bytes(33), message, good),
    ]


def evm_signatures():
    curve, message, secret = SECP256K1, seed("digest"), PROVIDER
    signed = [curves.evm_sign(secret, seed(f"digest {number}")) for number in range(4)]
    good = curves.evm_sign(secret, message)
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64:]
    word = lambda value: value.to_bytes(32, "big")
    off_curve = next(x for x in range(1, 99) if not curve.lift(x, 0))
    point = curve.mul(77, curve.base)
    infinity_s = int.from_bytes(message, "big") * pow(77, -1, curve.n) % curve.n
    infinity = word(point[0] % curve.n) + word(min(infinity_s, curve.n - infinity_s))
    cases = [(f"valid {number}", seed(f"digest {number}"), one) for number, one in enumerate(signed)]
    cases += [("valid", message, good), ("high s", message, r + word(curve.n - s) + bytes([55 - v[0]])),
              ("another digest", seed("other"), good), ("the other v", message, good[:64] + bytes([55 - v[0]])),
              ("v - 27", message, good[:64] + bytes([v[0] - 27])), ("v = 29", message, good[:64] + b"\x1d"),
              ("v of EIP-155", message, good[:64] + bytes([v[0] + 10])), ("64 bytes", message, good[:64]),
              ("66 bytes", message, good + b"\0"), ("r = 0", message, bytes(32) + good[32:]),
              ("s = 0", message, r + bytes(32) + v), ("r = n", message, word(curve.n) + good[32:]),
              ("s = n", message, r + word(curve.n) + v), ("r is no x", message, word(off_curve) + good[32:]),
              ("key at infinity, v 27", message, infinity + b"\x1b"),
              ("key at infinity, v 28", message, infinity + b"\x1c")]
    address = curves.evm_address(secret)
    return [{"name": name, "secret": word(secret).hex(), "address": address.hex(), "digest": digest.hex(),
             "signature": one.hex(), "accept": curves.evm_recover(digest, one) == address}
            for name, digest, one in cases]
