"""What notebooks 07 to 10 compute and draw beyond one call of the core: tables and figures of a whole run.

Functions take tables, arrays, numbers and names, never a run or its steps. `estimates` has what all of them need;
`quality`, `downstream` and `fairness` compute for notebooks 07, 08 and 10, and the modules named `..._figures` draw.
"""
