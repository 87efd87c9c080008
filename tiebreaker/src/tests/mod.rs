//! The policy table, row by row, and what holds for every sequence of requests (T3).

mod histories;
mod rivals;
mod table;
