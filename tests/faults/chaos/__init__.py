"""Everything at once, as real processes: what a seed draws is acted out, and judged by an oracle of its own.

places    where keys are kept, and what can befall a server
views     one view: its rows, its definition, and what Redis should hold of it
worlds    a source, a place, views in one or two namespaces, and keys of others
commands  what users run, as processes; what they may print, and how they may end
actions   the table of what happens in a round
oracle    Redis against the views, by plain SQL
story     rounds of actions, then a quiet phase in which everything has to come right
"""
