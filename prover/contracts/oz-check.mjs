// Checks one claim in a published tree with OpenZeppelin's library alone, none of our code:
//   node oz-check.mjs TREE.json ACCOUNT CUMULATIVE
// Prints {"root","leaf","proof","cumulative"} in one line, or says what is wrong and exits with 1 (2: usage).
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const LEAF_ENCODING = ["uint256", "address", "address", "uint256"]; // domain, account, token, cumulative

/** Finds and verifies the claim of `account`; throws with the reason if the dump does not prove it. */
function checkClaim(dump, account, cumulative) {
  if (!isDeepStrictEqual(dump.leafEncoding, LEAF_ENCODING)) {
    throw new Error(`leaf encoding is ${JSON.stringify(dump.leafEncoding)}, not ${JSON.stringify(LEAF_ENCODING)}`);
  }
  const tree = StandardMerkleTree.load(dump);
  tree.validate();
  const entries = [...tree.entries()];
  const distinct = (column) => new Set(entries.map(([, value]) => String(value[column]).toLowerCase())).size;
  if (distinct(0) !== 1 || distinct(2) !== 1) throw new Error("leaves are not all of one domain and one token");
  if (distinct(1) !== entries.length) throw new Error("an account has more than one leaf");
  const found = entries.find(([, value]) => value[1].toLowerCase() === account.toLowerCase());
  if (!found) throw new Error(`account \`${account}\` has no leaf`);
  const [index, value] = found;
  if (BigInt(value[3]) !== BigInt(cumulative)) {
    throw new Error(`the leaf of \`${account}\` says ${value[3]}, not ${cumulative}`);
  }
  const proof = tree.getProof(index);
  if (!StandardMerkleTree.verify(tree.root, LEAF_ENCODING, value, proof)) throw new Error("the proof does not verify");
  return { root: tree.root, leaf: tree.leafHash(value), proof, cumulative: value[3] };
}

const [path, account, cumulative, ...rest] = process.argv.slice(2);
if (!/^0x[0-9a-f]{40}$/i.test(account ?? "") || !/^\d+$/.test(cumulative ?? "") || rest.length > 0) {
  console.error("usage: node oz-check.mjs TREE.json ACCOUNT CUMULATIVE");
  process.exit(2);
}
try {
  console.log(JSON.stringify(checkClaim(JSON.parse(readFileSync(path, "utf8")), account, cumulative)));
} catch (error) {
  console.error(`oz-check: ${error.message}`);
  process.exitCode = 1;
}
