"""`model.pretrained`: reads weights, finds out which tensor is which, puts them into the network, and says so."""
