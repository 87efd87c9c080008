//! The decompressed kernel: which bytes go where, and which of them are code.
//!
//! Only what the machine can run is accepted: ELF64, little-endian, x86-64, `ET_EXEC`. Loading goes by `PT_LOAD`
//! and *physical* addresses, as the 64-bit entry protocol wants; editing goes by sections, because a segment mixes
//! code with read-only data, which a decoder must not see. Every executable section must therefore lie inside one
//! `PT_LOAD`, at the address that the segment gives it: otherwise an edit would not reach the guest, or the
//! addresses computed from it would be wrong.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::bytes::{u8_at, u16_at};
use super::error::KernelError;
use super::layout::KERNEL_START_MIN;
use crate::base::limits::KERNEL_IMAGE_BYTES_MAX;

/// Most section or program headers looked at; Debian's kernels have 39 and 5.
const HEADERS_MAX: usize = 512;

type Header = FileHeader64<LittleEndian>;

/// A part of the kernel that goes to one place in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address of its first byte.
    pub physical: u64,
    /// Its bytes within the image.
    pub file_range: Range<usize>,
    /// Bytes it takes in guest memory; those past the file's are zero.
    pub memory_byte_count: u64,
}

/// A section that holds code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutableSection {
    /// Its name, as in `.init.text`.
    pub name: String,
    /// Virtual address of its first byte.
    pub address: u64,
    /// Its bytes within the image.
    pub file_range: Range<usize>,
}

/// What an ELF image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElfLayout {
    /// Loadable segments, in the order of the program headers.
    pub segments: Vec<Segment>,
    /// Executable sections, by file offset, none overlapping.
    pub executable: Vec<ExecutableSection>,
    /// Guest physical address at which the kernel is entered.
    pub entry: u64,
}

/// Whether `file` begins as an ELF file does.
#[must_use]
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7FELF")
}

/// Reads the layout of `image`.
///
/// # Errors
/// No x86-64 executable, headers that point outside the image, segments that overlap, an entry outside them, or no
/// executable section.
pub fn parse(image: &[u8]) -> Result<ElfLayout, KernelError> {
    check_kind(image)?;
    let header = Header::parse(image).map_err(|error| unusable(error.to_string()))?;
    let loads = loadable_headers(header, image)?;
    let segments = loads
        .iter()
        .map(|load| segment(load, image.len()))
        .collect::<Result<Vec<_>, _>>()?;
    check_disjoint_in_memory(&segments)?;
    let entry = header.e_entry(LittleEndian);
    if !segments
        .iter()
        .any(|part| entry >= part.physical && entry - part.physical < file_byte_count(part))
    {
        return Err(unusable(format!(
            "its entry {entry:#x} lies in no loaded segment"
        )));
    }
    let executable = executable_sections(header, image, loads)?;
    Ok(ElfLayout {
        segments,
        executable,
        entry,
    })
}

fn unusable(what: impl Into<String>) -> KernelError {
    KernelError::UnusableElf { what: what.into() }
}

fn file_byte_count(segment: &Segment) -> u64 {
    u64::try_from(segment.file_range.len()).unwrap_or(u64::MAX)
}

fn check_kind(image: &[u8]) -> Result<(), KernelError> {
    if !is_elf(image) {
        return Err(unusable("what was decompressed is no ELF file"));
    }
    if u8_at(image, 4) == Some(elf::ELFCLASS32.0) {
        return Err(KernelError::ThirtyTwoBit {
            where_seen: "its ELF class",
        });
    }
    if u8_at(image, 5) != Some(elf::ELFDATA2LSB.0) {
        return Err(unusable("it is big-endian"));
    }
    match u16_at(image, 18) {
        Some(machine) if machine == elf::EM_X86_64.0 => {}
        Some(machine) => return Err(unusable(format!("it is for machine {machine}, not x86-64 (62)"))),
        None => return Err(unusable("it ends inside its header")),
    }
    match u16_at(image, 16) {
        Some(kind) if kind == elf::ET_EXEC.0 => Ok(()),
        kind => Err(unusable(format!(
            "it is of ELF type {}, not an executable (2)",
            kind.unwrap_or(0)
        ))),
    }
}

fn loadable_headers<'a>(
    header: &Header,
    image: &'a [u8],
) -> Result<Vec<&'a ProgramHeader64<LittleEndian>>, KernelError> {
    let headers = header
        .program_headers(LittleEndian, image)
        .map_err(|error| unusable(format!("its program headers: {error}")))?;
    if headers.len() > HEADERS_MAX {
        return Err(unusable(format!("it has {} program headers", headers.len())));
    }
    Ok(headers
        .iter()
        .filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD)
        .collect())
}

/// The bytes from `offset`, if the image holds them all.
fn range_in(image_byte_count: usize, offset: u64, byte_count: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(byte_count).ok()?)?;
    (end <= image_byte_count).then_some(start..end)
}

fn segment(header: &ProgramHeader64<LittleEndian>, image_byte_count: usize) -> Result<Segment, KernelError> {
    let physical = header.p_paddr(LittleEndian);
    let (in_file, in_memory) = (header.p_filesz(LittleEndian), header.p_memsz(LittleEndian));
    let bad = |what: &str| unusable(format!("its segment at {physical:#x} {what}"));
    if in_file > in_memory {
        return Err(bad("is longer in the file than in memory"));
    }
    if in_memory > KERNEL_IMAGE_BYTES_MAX {
        return Err(bad("is larger than any kernel"));
    }
    if physical < KERNEL_START_MIN
        || physical
            .checked_add(in_memory)
            .is_none_or(|end| end > u64::from(u32::MAX))
    {
        return Err(bad("lies outside the memory between 1 MiB and 4 GiB"));
    }
    let file_range = range_in(image_byte_count, header.p_offset(LittleEndian), in_file)
        .ok_or_else(|| bad("reaches past the end of the file"))?;
    Ok(Segment {
        physical,
        file_range,
        memory_byte_count: in_memory,
    })
}

fn check_disjoint_in_memory(segments: &[Segment]) -> Result<(), KernelError> {
    let mut ordered: Vec<&Segment> = segments.iter().collect();
    ordered.sort_by_key(|segment| segment.physical);
    for pair in ordered.windows(2) {
        // No overflow: `segment` has checked the sum.
        if pair[0].physical + pair[0].memory_byte_count > pair[1].physical {
            let (first, second) = (pair[0].physical, pair[1].physical);
            return Err(unusable(format!(
                "its segments at {first:#x} and {second:#x} overlap"
            )));
        }
    }
    Ok(())
}

fn executable_sections(
    header: &Header,
    image: &[u8],
    loads: Vec<&ProgramHeader64<LittleEndian>>,
) -> Result<Vec<ExecutableSection>, KernelError> {
    let table = header
        .sections(LittleEndian, image)
        .map_err(|error| unusable(format!("its section headers: {error}")))?;
    if table.len() > HEADERS_MAX {
        return Err(unusable(format!("it has {} sections", table.len())));
    }
    let mut found = Vec::new();
    for section in table.iter().filter(|section| is_code(section)) {
        let name = table.section_name(LittleEndian, section).unwrap_or(b"(unnamed)");
        let name = String::from_utf8_lossy(name).into_owned();
        let address = section.sh_addr(LittleEndian);
        let (offset, byte_count) = (section.sh_offset(LittleEndian), section.sh_size(LittleEndian));
        let file_range = range_in(image.len(), offset, byte_count)
            .ok_or_else(|| unusable(format!("its section {name} reaches past the end of the file")))?;
        if !loads.iter().any(|load| holds(load, address, offset, byte_count)) {
            return Err(unusable(format!(
                "its section {name} at {address:#x} is in no loaded segment"
            )));
        }
        found.push(ExecutableSection {
            name,
            address,
            file_range,
        });
    }
    found.sort_by_key(|section| section.file_range.start);
    if let Some(pair) = found
        .windows(2)
        .find(|pair| pair[0].file_range.end > pair[1].file_range.start)
    {
        return Err(unusable(format!(
            "its sections {} and {} overlap",
            pair[0].name, pair[1].name
        )));
    }
    if found.is_empty() {
        let what = "it has no executable sections (were its section headers stripped?)".into();
        return Err(KernelError::CannotEdit { what });
    }
    Ok(found)
}

fn is_code(section: &SectionHeader64<LittleEndian>) -> bool {
    let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
    section.sh_type(LittleEndian) == elf::SHT_PROGBITS
        && section.sh_flags(LittleEndian) & code == code
        && section.sh_size(LittleEndian) > 0
}

/// Whether `load` brings the section to the address it claims.
fn holds(load: &ProgramHeader64<LittleEndian>, address: u64, offset: u64, byte_count: u64) -> bool {
    let Some(into) = offset.checked_sub(load.p_offset(LittleEndian)) else {
        return false;
    };
    into.checked_add(byte_count)
        .is_some_and(|end| end <= load.p_filesz(LittleEndian))
        && load.p_vaddr(LittleEndian).checked_add(into) == Some(address)
        && address.checked_add(byte_count).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::boot::tiny::{TinyKernel, field};

    #[test]
    fn segments_and_code_are_found() {
        let image = TinyKernel::editable().elf();
        let layout = parse(&image).unwrap();
        assert_eq!(layout.entry, 0x10_0000);
        assert_eq!(layout.segments.len(), 1);
        assert_eq!(layout.segments[0].physical, 0x10_0000);
        let names: Vec<_> = layout
            .executable
            .iter()
            .map(|section| section.name.as_str())
            .collect();
        assert_eq!(names, [".text", ".altinstr_replacement"]);
        assert_eq!(layout.executable[0].address, 0xFFFF_FFFF_8100_0000);
    }

    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut image = TinyKernel::editable().elf();
        change(&mut image);
        parse(&image).unwrap_err().to_string()
    }

    #[test]
    fn foreign_elf_files_are_refused_by_name() {
        assert!(refusal(|image| image[4] = 1).contains("32-bit"));
        assert!(refusal(|image| image[5] = 2).contains("big-endian"));
        assert!(refusal(|image| image[18] = 183).contains("machine 183"));
        assert!(refusal(|image| image[16] = 3).contains("ELF type 3"));
        assert!(refusal(|image| image.truncate(100)).contains("unusable"));
    }

    #[test]
    fn segments_outside_the_file_or_memory_are_refused() {
        let filesz = field::PHDR + 32;
        assert!(refusal(|image| image[filesz + 3] = 1).contains("longer in the file than in memory"));
        let offset = field::PHDR + 8;
        assert!(refusal(|image| image[offset + 5] = 1).contains("past the end of the file"));
        let physical = field::PHDR + 24;
        assert!(refusal(|image| image[physical + 5] = 1).contains("between 1 MiB and 4 GiB"));
        assert!(refusal(|image| image[field::ENTRY + 3] = 1).contains("entry"));
    }

    #[test]
    fn a_kernel_without_section_headers_cannot_be_edited() {
        let error = refusal(|image| image[field::SHOFF..field::SHOFF + 8].fill(0));
        assert!(error.contains("no executable sections"), "{error}");
    }
}
