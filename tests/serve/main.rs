//! `polar-raw serve`: every form of request against scores computed directly, hostile requests, and load.

mod client;
mod compat;
mod faults;
mod fixture;
mod hostile;
mod load;
mod native;
mod openapi;
mod program;
mod shutdown;
