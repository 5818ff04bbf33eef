"""fairrecon_core: does image reconstruction change fairness?

The pipe, and the order of the modules: cohort -> degrade -> reconstruct -> predict -> audit.
Nothing is imported here, so that `import fairrecon_core.audit` stays light.
"""

__version__ = "0.1.0"
