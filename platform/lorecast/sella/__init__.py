"""SeLLa-Rec: a language model that recommends, guided by collaborative tokens."""
