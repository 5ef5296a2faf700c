"""Human feedback: the format of a line, the store that reads and appends it, its quality, and what is learned from it.

schema.py (the format), store.py (files to live records), scores.py (records to what a pair earned), learned.py (the
learned reward), quality.py and agreement.py (how far annotators can be trusted), exports.py and imports.py (others'
formats), versions.py (what a run saw, and when), command.py (`instructrec-rl feedback`).
"""
