"""A class: a set of notebooks for each student with numbers of their own, offline grading, and the null in the crowd.

`sets` makes the folders, `exercises` holds one exercise with its own numbers for each notebook, `grading` marks what
comes back, `crowd` pools the small files of a class's placebo audits. Notebooks carry standard nbgrader metadata.
"""
