//! The mode `load`: jobs of requests to the disks, and how long they took.
//!
//! `../src/guest/job.rs` says what a job is. Left out on purpose: a look at what is read, which the self-test has.

use crate::arch;
use crate::arch::timestamp;
use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::disk::{IN, OK, OUT, SECTOR};
use crate::flight::{Flight, SLOTS_LIMIT, Shape};
use crate::histogram::Histogram;
use crate::job::{Blocks, Job};
use crate::memory::{self, Arena};
use crate::ring::Completion;
use crate::self_test::Machine;

/// What a job came to, in ticks of the counter.
struct Outcome {
    /// Requests in flight.
    depth: u16,
    operations: u64,
    errors: u64,
    ticks: u64,
    latencies: Histogram,
}

/// Does the jobs that the command line asks for, one after the other, on the first `kami.span` bytes of their disks.
pub fn run(console: &mut Console, info: &BootInfo, machine: &Machine<'_>) -> Result<(), Failure> {
    let Some(jobs) = info.option("kami.load") else {
        return Err(failure!("kami.load names no jobs"));
    };
    let khz = arch::counter_khz(info.number("kami.tsc_khz"))?;
    // So that disks as large as a volume has to be need not be filled.
    let span = info.number("kami.span").unwrap_or(u64::MAX);
    let spare = memory::spare(info)?;
    let mut has_timer = false;
    for text in jobs.split(',') {
        let job: Job = text
            .parse()
            .map_err(|wrong| failure!("kami.load: {wrong} of {text} is wrong"))?;
        if job.irq && !has_timer {
            // So that a rest that nothing else ends, ends. It starts once.
            machine.interrupts.start_timer()?;
            has_timer = true;
        }
        let outcome = run_job(console, machine, &Arena::over(spare), &job, span, khz)?;
        tell(console, text, &job, khz, &outcome);
    }
    Ok(())
}

/// Says when the requests begin and when they have ended, for a host that looks at its own CPU time then.
fn run_job(
    console: &mut Console,
    machine: &Machine<'_>,
    arena: &Arena,
    job: &Job,
    span: u64,
    khz: u64,
) -> Result<Outcome, Failure> {
    let shape = Shape {
        queues: job.queues,
        slots: job.depth,
        slot_bytes: job.block_bytes,
        completion: completion(job),
    };
    let mut flight = Flight::start(job.disk, machine, arena, shape)?;
    flight.fill_buffers(timestamp());
    let blocks = Blocks::new(job, span.min(flight.sectors * SECTOR), timestamp());
    report!(console, "load_begins={}", job.disk);
    let mut outcome = drive(&mut flight, job, blocks, khz)?;
    report!(console, "load_ends={}", job.disk);
    // A host that gathers what is printed, up to 2 ms, still finds the thread that did the work.
    let read = timestamp() + 5 * khz;
    while timestamp() < read {
        core::hint::spin_loop();
    }
    if job.kind.writes() && flight.flush(shape.completion)? != OK {
        outcome.errors += 1;
    }
    flight.stop()?;
    Ok(outcome)
}

fn completion(job: &Job) -> Completion {
    match job.irq {
        true => Completion::Interrupt,
        false => Completion::Polled,
    }
}

/// Keeps as many requests in flight as the job wants until its time is up or its blocks are done, then waits for the
/// last of them.
fn drive(
    flight: &mut Flight<'_>,
    job: &Job,
    mut blocks: Blocks,
    khz: u64,
) -> Result<Outcome, Failure> {
    let kind = if job.kind.writes() { OUT } else { IN };
    let block_sectors = job.block_bytes / SECTOR;
    let mut sent = [0; SLOTS_LIMIT as usize];
    let mut outcome = Outcome {
        depth: flight.slots,
        operations: 0,
        errors: 0,
        ticks: 0,
        latencies: Histogram::new(),
    };
    let start = timestamp();
    let end = match job.kind.is_once() {
        true => u64::MAX,
        false => start.saturating_add(job.limit.saturating_mul(khz)),
    };
    let mut in_flight: u32 = 0;
    for (slot, block) in (0..flight.slots).zip(blocks.by_ref()) {
        sent[usize::from(slot)] = timestamp();
        flight.send(slot, kind, block * block_sectors, job.block_bytes);
        in_flight += 1;
    }
    let mut now = start;
    while in_flight != 0 {
        flight.publish();
        let mut done = Some(flight.wait(completion(job))?);
        while let Some((slot, status)) = done {
            now = timestamp();
            let Some(since) = sent.get_mut(usize::from(slot)) else {
                return Err(failure!("a flush is done that nobody has asked for"));
            };
            outcome.latencies.add(now - *since);
            outcome.operations += 1;
            outcome.errors += u64::from(status != OK);
            let next = if now < end { blocks.next() } else { None };
            match next {
                Some(block) => {
                    *since = now;
                    flight.send(slot, kind, block * block_sectors, job.block_bytes);
                }
                None => in_flight -= 1,
            }
            done = flight.take()?;
        }
    }
    outcome.ticks = now - start;
    Ok(outcome)
}

fn tell(console: &mut Console, text: &str, job: &Job, khz: u64, outcome: &Outcome) {
    let Outcome {
        depth,
        operations,
        errors,
        ticks,
        latencies,
    } = outcome;
    let nanoseconds = |ticks: u64| (u128::from(ticks) * 1_000_000 / u128::from(khz)) as u64;
    let percentile = |per_mille| nanoseconds(latencies.percentile(per_mille));
    report!(
        console,
        "load={text} ops={operations} errors={errors} bytes={} ns={} p50={} p90={} p99={} p999={} max={} depth={depth}",
        operations * job.block_bytes,
        nanoseconds(*ticks),
        percentile(500),
        percentile(900),
        percentile(990),
        percentile(999),
        nanoseconds(latencies.largest()),
    );
}
