"""What a network will cost, before anything of it is compiled or even trained.

Imports `compile.verifier`, `fhe_inhibitor.runtime` and, of Concrete, its compiler alone, which
loads without torch. Begin with `report`; then `trace` (which lookup reads what), `classes` (which
lookups are alike) and `sketch` (what Concrete's optimizer is asked).
"""
