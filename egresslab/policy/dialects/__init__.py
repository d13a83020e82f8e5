"""One module for each way to write a policy; each turns objects into the one model and knows no other dialect."""
