//! `polar-raw serve`: every form of request against scores computed directly, hostile requests, and load.

mod client;
mod compat;

mod fixture;
