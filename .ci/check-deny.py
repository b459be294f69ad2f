"""Checks deny.toml, with cargo-deny if it is on PATH and otherwise by itself.

cargo-deny takes many minutes to build, and its rules that matter here are few: who may depend on
what, which licences are acceptable, where crates come from. This reads the same file and decides
the same way, with Python's standard library only. A setting it does not know is an error, so that
no rule is ever silently unchecked.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {
    "graph": {"exclude-dev"},
    "bans": {"deny", "multiple-versions", "wildcards"},
    "licenses": {"allow", "unused-allowed-license"},
    "sources": {"unknown-registry", "unknown-git"},
}
FIXED = [("graph", "exclude-dev", True), ("sources", "unknown-registry", "deny"), ("sources", "unknown-git", "deny")]
DENY_KEYS = {"crate", "wrappers", "reason"}


def main():
    if shutil.which("cargo-deny"):
        command = ["cargo", "deny", "--locked", "check", "bans", "licenses", "sources"]
        return subprocess.run(command, cwd=ROOT).returncode
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    metadata = json.loads(cargo("metadata", "--format-version", "1"))
    packages, dependents = graph(metadata, built())
    problems = [
        *unknown_settings(rules),
        *banned(rules["bans"]["deny"], packages, dependents),
        *unlicensed(rules["licenses"]["allow"], packages),
        *foreign(packages),
    ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(packages)} crates: {len(problems)} against deny.toml")
    return 1 if problems else 0


def cargo(command, *arguments):
    command = ["cargo", command, "--locked", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def built():
    """Name and version of all that is built on any platform but for tests.

    cargo metadata lists more: also optional dependencies that no feature asks for.
    """
    edges = ["--workspace", "--edges", "normal,build", "--target", "all"]
    lines = cargo("tree", *edges, "--prefix", "none", "--format", "{p}").splitlines()
    return {tuple(line.split()[:2]) for line in lines if line}


def graph(metadata, built):
    """What the workspace is built of, and the names of the crates that depend on each."""
    by_id = {
        package["id"]: package
        for package in metadata["packages"]
        if (package["name"], f"v{package['version']}") in built
    }
    dependents = defaultdict(set)
    for node in metadata["resolve"]["nodes"]:
        for dependency in node["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            if node["id"] in by_id and dependency["pkg"] in by_id and kinds != {"dev"}:
                dependents[dependency["pkg"]].add(by_id[node["id"]]["name"])
    return sorted(by_id.values(), key=lambda p: (p["name"], p["version"])), dependents


def unknown_settings(rules):
    for section, settings in rules.items():
        for name in settings:
            if name not in KNOWN.get(section, ()):
                yield f"deny.toml: `{section}.{name}` is not understood by this check"
    for section, name, value in FIXED:
        if rules.get(section, {}).get(name) != value:
            yield f"deny.toml: `{section}.{name}` must be `{json.dumps(value)}`, which this check assumes"
    for entry in rules["bans"]["deny"]:
        for name in entry.keys() - DENY_KEYS:
            yield f"deny.toml: `{name}` of a ban is not understood by this check"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", entry["crate"]):
            yield f"deny.toml: `{entry['crate']}` is more than a name, which this check does not understand"


def banned(deny, packages, dependents):
    """A banned crate may be there only if each crate that depends on it directly is a wrapper."""
    for entry in deny:
        for package in packages:
            if package["name"] != entry["crate"]:
                continue
            named = f"`{package['name']} {package['version']}`"
            reason = f" ({entry['reason']})" if "reason" in entry else ""
            wrappers = entry.get("wrappers", [])
            if not wrappers:
                by = ", ".join(sorted(dependents[package["id"]]))
                yield f"{named} is banned, and here because of {by}{reason}"
                continue
            for dependent in sorted(dependents[package["id"]] - set(wrappers)):
                yield f"`{dependent}` may not depend on {named}, only {', '.join(wrappers)}{reason}"


def unlicensed(allow, packages):
    used = set()
    for package in packages:
        named = f"`{package['name']} {package['version']}`"
        expression = package["license"]
        if not expression:
            yield f"{named} names no licence"
            continue
        try:
            accepted, needed = satisfied(expression, set(allow))
        except ValueError as error:
            yield f"{named}: {error}"
            continue
        used |= needed
        if not accepted:
            yield f"{named} is under `{expression}`, which deny.toml does not allow"
    for name in allow:
        if name not in used:
            yield f"deny.toml: licence `{name}` is allowed, but no crate has it"


def satisfied(expression, allow):
    """Whether the allowed licences satisfy an SPDX expression, and which of them it mentions.

    AND binds before OR; `/` is the OR of old manifests; `X WITH exception` is a name of its own;
    `X+` (X or later) is satisfied by X.
    """
    words = re.findall(r"[()/]|[A-Za-z0-9.+:-]+", expression)
    if "".join(words) != re.sub(r"\s+", "", expression):
        raise ValueError(f"`{expression}` is not a licence expression")
    mentioned = set()

    def alternatives():
        result = conjunction()
        while words and words[0] in ("OR", "/"):
            words.pop(0)
            right = conjunction()
            result = result or right
        return result

    def conjunction():
        result = single()
        while words and words[0] == "AND":
            words.pop(0)
            right = single()
            result = result and right
        return result

    def single():
        word = words.pop(0) if words else ""
        if word == "(":
            result = alternatives()
            if not words or words.pop(0) != ")":
                raise ValueError(f"`{expression}` has an open parenthesis")
            return result
        if word in ("", ")", "/", "OR", "AND", "WITH"):
            raise ValueError(f"`{expression}` lacks a licence")
        name = word
        if words[:1] == ["WITH"] and len(words) > 1:
            name = f"{word} WITH {words[1]}"
            del words[:2]
        name = next((n for n in (name, name.removesuffix("+")) if n in allow), name)
        mentioned.add(name)
        return name in allow

    result = alternatives()
    if words:
        raise ValueError(f"`{expression}` goes on where it should end")
    return result, mentioned


def foreign(packages):
    """One registry, the one that most crates come from, or a path of this repository."""
    registries = Counter(p["source"] for p in packages if (p["source"] or "").startswith("registry+"))
    [(registry, _)] = registries.most_common(1)
    for package in packages:
        source = package["source"]
        if source is None:
            if not Path(package["manifest_path"]).is_relative_to(ROOT):
                yield f"`{package['name']}` lies outside the repository"
        elif source != registry:
            yield f"`{package['name']} {package['version']}` comes from `{source}`"


if __name__ == "__main__":
    sys.exit(main())
