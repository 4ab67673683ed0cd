//! `polar-raw serve`: every form of request against scores computed directly, hostile requests, and load.

mod added;
mod busy;
mod client;
mod compat;
mod faults;
mod fixture;
mod framing;
mod hostile;
mod load;
mod native;
mod openapi;
mod program;
mod shutdown;
