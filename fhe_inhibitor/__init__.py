"""Homomorphic-encryption inference with inhibitor attention."""
