"""Proof of how a run's model was made: a hash chain, Merkle trees and signatures.

No torch, no network: who has the file and the authority checks it on any machine.
"""

from edge_sdk.proof.chain import FIRST, link, record_line
from edge_sdk.proof.file import ProofFile, read_proof, write_proof
from edge_sdk.proof.merkle import leaf_hash, path_of, root_from, root_of
from edge_sdk.proof.verify import Verified, verify_proof

__all__ = [
    "FIRST",
    "ProofFile",
    "Verified",
    "leaf_hash",
    "link",
    "path_of",
    "read_proof",
    "record_line",
    "root_from",
    "root_of",
    "verify_proof",
    "write_proof",
]
