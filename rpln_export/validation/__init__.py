"""The proof that a bundle's graphs compute what eager torch computes, and where they begin to differ."""
