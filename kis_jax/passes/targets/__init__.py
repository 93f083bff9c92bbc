"""Target values: what a layer has to answer so that the model says the new fact."""
