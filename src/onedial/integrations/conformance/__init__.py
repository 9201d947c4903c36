"""Known bugs of trainers and the identities of the field as checks of anyone's advantage and loss functions."""
