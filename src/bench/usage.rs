//! CPU time and memory of processes, from /proc.

use std::fs;

/// Ticks a second of the times in /proc. The kernel gives user space 100 on every platform we run on.
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds, user and system, that the process has used so far. None where there is no /proc.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    times(pid, 2)
}

/// User and system time of the process, and with four fields also those of its children that have ended.
fn times(pid: u32, fields: usize) -> Option<f64> {
    let stat = stat_fields(pid)?;
    let ticks = stat.split_whitespace().skip(11).take(fields).filter_map(|field| field.parse::<f64>().ok());
    Some(ticks.sum::<f64>() / TICKS_PER_S)
}

/// The fields behind the program's name, which stands in parentheses and may hold blanks.
fn stat_fields(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.to_owned())
}

/// Memory that the process holds now, in megabytes (10^6 bytes).
pub(crate) fn resident_mb(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// The postmaster above a backend. None where the server is not on this machine.
pub(crate) fn postmaster_of(backend: i32) -> Option<u32> {
    let comm = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let backend = u32::try_from(backend).ok()?;
    if comm(backend)?.trim() != "postgres" {
        return None;
    }
    let parent = parent_of(backend)?;
    (comm(parent)?.trim() == "postgres").then_some(parent)
}

/// CPU seconds of the server: its postmaster, its processes, and those of them that have ended.
pub(crate) fn server_cpu_s(postmaster: u32) -> f64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0.0 };
    let own: f64 = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent_of(*pid) == Some(postmaster))
        .filter_map(cpu_s)
        .sum();
    own + times(postmaster, 4).unwrap_or(0.0)
}

fn parent_of(pid: u32) -> Option<u32> {
    stat_fields(pid)?.split_whitespace().nth(1)?.parse().ok()
}

/// A fixed piece of work, in milliseconds. Virtual machines change their speed under us, by half and more: this says
/// how fast the processor was, so that two rounds can be compared.
pub(crate) fn probe_ms() -> f64 {
    let started = std::time::Instant::now();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..10_000_000_u32 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    std::hint::black_box(state);
    started.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        probe_ms();
        let pid = std::process::id();
        assert!(cpu_s(pid).is_some_and(|used| used >= 0.0));
        assert!(resident_mb(pid).is_some_and(|resident| resident > 1.0));
    }
}
