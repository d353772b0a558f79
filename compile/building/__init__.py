"""From a user's labelled texts to an encrypted classifier, and an honest table of what it is worth.

Imports `compile.evaluation` and `fhe_inhibitor.training.own_texts`. Begin with
`student`, which trains, then `run`, which encrypts; `page` has the results as a table, and what is
to be warned of.
"""
