"""Signatures by hand (SPEC.md section 4): the accepted sets are the point, so no library decides them."""

import hashlib
import hmac

from Crypto.Hash import keccak as _keccak


def keccak(data):
    return _keccak.new(digest_bits=256, data=data).digest()


# Edwards curve 25519, RFC 8032. Points are affine (x, y).
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
IDENTITY = (0, 1)


def ed_add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x % P, y % P


def ed_mul(scalar, point):
    out = IDENTITY
    while scalar:
        if scalar & 1:
            out = ed_add(out, point)
        point = ed_add(point, point)
        scalar >>= 1
    return out


def ed_encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed_x(y, sign):
    """The x of a point with this y and sign, or None."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_M1 % P
    if x * x % P != square or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def ed_decode(data):
    """A canonical point, or None."""
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= P:
        return None
    x = ed_x(y, sign)
    return None if x is None else (x, y)


BASE = (ed_x(4 * pow(5, -1, P) % P, 0), 4 * pow(5, -1, P) % P)


def ed_small(point):
    return ed_mul(8, point) == IDENTITY


def ed_key_is_valid(key):
    point = ed_decode(key)
    return point is not None and not ed_small(point)


def ed_challenge(r, key, message):
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


def ed_verify(key, message, signature):
    if not ed_key_is_valid(key) or len(signature) != 64:
        return False
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    point_r = ed_decode(r)
    if s >= L or point_r is None or ed_small(point_r):
        return False
    k = ed_challenge(r, key, message)
    negative_key = (P - ed_decode(key)[0], ed_decode(key)[1])
    return ed_encode(ed_add(ed_mul(s, BASE), ed_mul(k, negative_key))) == r


def ed_secret(seed):
    """The scalar and the prefix of a seed."""
    h = hashlib.sha512(seed).digest()
    return int.from_bytes(h[:32], "little") & (2**254 - 8) | 2**254, h[32:]


def ed_public(seed):
    return ed_encode(ed_mul(ed_secret(seed)[0], BASE))


def ed_sign(seed, message):
    a, prefix = ed_secret(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    r = ed_encode(ed_mul(nonce, BASE))
    s = (nonce + ed_challenge(r, ed_public(seed), message) * a) % L
    return r + s.to_bytes(32, "little")


class Weierstrass:
    """A curve y² = x³ + ax + b of prime order; points are affine or None."""

    def __init__(self, p, a, b, n, x, y):
        self.p, self.a, self.b, self.n, self.base = p, a, b, n, (x, y)

    def add(self, one, other):
        if one is None or other is None:
            return one or other
        (x1, y1), (x2, y2) = one, other
        if x1 == x2:
            if (y1 + y2) % self.p == 0:
                return None
            slope = (3 * x1 * x1 + self.a) * pow(2 * y1, -1, self.p)
        else:
            slope = (y2 - y1) * pow(x2 - x1, -1, self.p)
        x = (slope * slope - x1 - x2) % self.p
        return x, (slope * (x1 - x) - y1) % self.p

    def mul(self, scalar, point):
        out = None
        while scalar:
            if scalar & 1:
                out = self.add(out, point)
            point = self.add(point, point)
            scalar >>= 1
        return out

    def lift(self, x, odd):
        """The point with this x and this oddness of y, or None. p is 3 modulo 4 for both curves."""
        if x >= self.p:
            return None
        square = (x**3 + self.a * x + self.b) % self.p
        y = pow(square, (self.p + 1) // 4, self.p)
        if y * y % self.p != square:
            return None
        return x, (y if y & 1 == odd else self.p - y)

    def nonce(self, secret, message_hash):
        """RFC 6979 with SHA-256."""
        z = int.from_bytes(message_hash, "big") % self.n
        seed = secret.to_bytes(32, "big") + z.to_bytes(32, "big")
        v, k = b"\1" * 32, b"\0" * 32
        for step in (b"\0", b"\1"):
            k = hmac.digest(k, v + step + seed, "sha256")
            v = hmac.digest(k, v, "sha256")
        while True:
            v = hmac.digest(k, v, "sha256")
            if 0 < int.from_bytes(v, "big") < self.n:
                return int.from_bytes(v, "big")
            k = hmac.digest(k, v + b"\0", "sha256")
            v = hmac.digest(k, v, "sha256")

    def sign(self, secret, message_hash):
        """(r, s, oddness of the nonce point's y) with s in the lower half."""
        nonce = self.nonce(secret, message_hash)
        x, y = self.mul(nonce, self.base)
        z = int.from_bytes(message_hash, "big")
        s = (z + x * secret) * pow(nonce, -1, self.n) % self.n
        return (x % self.n, s, y & 1) if s <= self.n // 2 else (x % self.n, self.n - s, 1 - (y & 1))


P256 = Weierstrass(
    0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF, -3,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
SECP256K1 = Weierstrass(
    2**256 - 2**32 - 977, 0, 7,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def p256_point(key):
    """The point of a compressed key, or None."""
    if len(key) != 33 or key[0] not in (2, 3):
        return None
    return P256.lift(int.from_bytes(key[1:], "big"), key[0] & 1)


def p256_public(secret):
    x, y = P256.mul(secret, P256.base)
    return bytes([2 + (y & 1)]) + x.to_bytes(32, "big")


def p256_sign(secret, message):
    r, s, _ = P256.sign(secret, hashlib.sha256(message).digest())
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def p256_verify(key, message, signature):
    point = p256_point(key)
    if point is None or len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not 0 < r < P256.n or not 0 < s <= P256.n // 2:
        return False
    z = int.from_bytes(hashlib.sha256(message).digest(), "big")
    w = pow(s, -1, P256.n)
    found = P256.add(P256.mul(z * w % P256.n, P256.base), P256.mul(r * w % P256.n, point))
    return found is not None and found[0] % P256.n == r


def evm_address_of_point(point):
    return keccak(point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big"))[12:]


def evm_address(secret):
    return evm_address_of_point(SECP256K1.mul(secret, SECP256K1.base))


def evm_sign(secret, digest):
    r, s, odd = SECP256K1.sign(secret, digest)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + odd])


def evm_recover(digest, signature):
    """The address that signed, or None if the form is not the accepted one."""
    curve = SECP256K1
    if len(signature) != 65 or signature[64] not in (27, 28):
        return None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if not 0 < r < curve.n or not 0 < s <= curve.n // 2:
        return None
    nonce_point = curve.lift(r, signature[64] - 27)
    if nonce_point is None:
        return None
    z, inverse = int.from_bytes(digest, "big"), pow(r, -1, curve.n)
    key = curve.add(curve.mul(s * inverse % curve.n, nonce_point),
                    curve.mul(-z * inverse % curve.n, curve.base))
    return None if key is None else evm_address_of_point(key)
