"""What learners share: SB3's algorithms behind the contract, cloning, going on in the real environment."""
