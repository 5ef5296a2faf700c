"""Texts and items as vectors: sentence encoders, their cache, the clauses of an instruction, and the set network."""
