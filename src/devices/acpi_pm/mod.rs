//! ACPI power-management registers.
