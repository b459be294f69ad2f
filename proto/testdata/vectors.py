#!/usr/bin/env python3
"""Test vectors of SPEC.md, computed without the Rust code.

    pip install blake3 cryptography pycryptodome
    vectors.py            compares vectors.json with what this program computes (also --check)
    vectors.py --make     writes vectors.json

Everything is derived from fixed labels, so --make writes the same bytes on every machine. Signatures
are made and judged by hand in reference/curves.py; `cryptography` only confirms the ordinary ones.
"""

import argparse
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives import hashes

sys.dont_write_bytecode = True
from reference import cases_layouts, cases_ledger, cases_signed, curves  # noqa: E402

VECTORS = pathlib.Path(__file__).with_name("vectors.json")


def build():
    signed = cases_signed
    return {
        "format": "fieldproof-vectors-1",
        "network": signed.NETWORK.hex(),
        "chain_id": signed.CHAIN_ID,
        "contexts": signed.contexts(),
        "trees": signed.trees(),
        "canonical_json": signed.canonical_json(),
        "genesis": signed.genesis(),
        "devices": signed.devices(),
        "ed25519": signed.ed25519_cases(),
        "p256": signed.p256_cases(),
        "evm": signed.evm_signatures(),
        "payloads": cases_layouts.payloads(),
        "payload_rejects": cases_layouts.payload_rejects(),
        "headers": cases_layouts.headers(),
        "batches": cases_layouts.batches(),
        "envelopes": cases_layouts.envelopes(),
        "secrets": {"provider": curves_word(signed.PROVIDER), "admitter": signed.ADMITTER.hex(),
                    "ingester": signed.INGESTER.hex()},
        "registrations": cases_layouts.registrations(),
        "receipts": cases_layouts.receipts(),
        "rejections": cases_layouts.rejections(),
        "control": cases_ledger.control(),
        "control_states": cases_ledger.control_states(),
        "evidence": cases_ledger.evidence(),
        "epochs": cases_ledger.epochs(),
        "allocations": cases_ledger.allocations(),
        "objects": cases_ledger.objects(),
        "reward_trees": cases_ledger.reward_trees(),
        "attestations": cases_ledger.attestations(),
    }


def curves_word(value):
    return value.to_bytes(32, "big").hex()


def confirm(vectors):
    """A library must agree on what we accept: it may accept more, for its rules are looser."""
    for case in vectors["ed25519"] + vectors["p256"]:
        if not case["accept"]:
            continue
        key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
        try:
            if case["algorithm"] == 1:
                ed25519.Ed25519PublicKey.from_public_bytes(key[:32]).verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
                public.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            sys.exit(f"`cryptography` refuses `{case['name']}`, which is accepted here")
    for case in vectors["evm"]:
        public = ec.derive_private_key(int(case["secret"], 16), ec.SECP256K1()).public_key().public_numbers()
        if curves.evm_address_of_point((public.x, public.y)).hex() != case["address"]:
            sys.exit(f"`cryptography` has another key for the secret of `{case['name']}`")


def differences(found, expected, path="vectors"):
    """The paths at which two JSON values differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            if name not in found or name not in expected:
                yield f"{path}.{name} is only in {'the program' if name in found else 'vectors.json'}"
            else:
                yield from differences(found[name], expected[name], f"{path}.{name}")
    elif isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{path} has {len(found)} entries in the program, {len(expected)} in vectors.json"
        for index, (one, other) in enumerate(zip(found, expected)):
            yield from differences(one, other, f"{path}[{index}]")
    elif found != expected or type(found) is not type(expected):
        yield f"{path} is {found!r} in the program, {expected!r} in vectors.json"


def count(value):
    """How many cases there are: objects and rows inside lists."""
    if isinstance(value, dict):
        return sum(count(one) for one in value.values())
    return len(value) if isinstance(value, list) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--make", action="store_true", help="write vectors.json")
    group.add_argument("--check", action="store_true", help="compare with vectors.json (the default)")
    make = parser.parse_args().make
    vectors = build()
    confirm(vectors)
    if make:
        VECTORS.write_text(json.dumps(vectors, indent=1, sort_keys=True, ensure_ascii=True) + "\n")
        print(f"{VECTORS.name}: wrote {count(vectors)} cases in {len(vectors)} sections")
        return
    found = list(differences(vectors, json.loads(VECTORS.read_text())))
    for line in found[:20]:
        print(line, file=sys.stderr)
    if found:
        sys.exit(f"{VECTORS.name}: {len(found)} differences")
    print(f"{VECTORS.name}: {count(vectors)} cases in {len(vectors)} sections agree")


if __name__ == "__main__":
    main()
