//! What reaches a real mail server, and what it does to us.
