"""What the training data do to a reconstructor, and what fine-tuning it can repay: skews, terms, twins, the study."""
