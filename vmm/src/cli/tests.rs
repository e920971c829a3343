//! What the command line takes and refuses, before anything is done.

use clap::{CommandFactory, Parser};

use super::Cli;

fn refused(args: &str) -> String {
    let args = std::iter::once("kami").chain(args.split(' '));
    let error = Cli::try_parse_from(args).expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn taken(args: &str) {
    let args = std::iter::once("kami").chain(args.split(' '));
    Cli::try_parse_from(args).unwrap();
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_every_documented_option() {
    taken("run debian");
    taken(
        "run ami-1 --kernel vmlinuz --initrd initrd.img --append -v --cpus 32 --memory 512M \
         -b /dev/sdb=ephemeral0 --block-device /dev/sdc=:20 --ephemeral-size 1.5G --name web --rm \
         -d --console file=out.log --timeout 1m30s",
    );
}

#[test]
fn run_alone_is_what_it_is_among_the_others() {
    let help = |mut command: clap::Command| {
        command.build();
        let mut run = command.find_subcommand("run").unwrap().clone();
        (
            run.render_help().to_string(),
            run.render_long_help().to_string(),
        )
    };
    assert_eq!(help(super::only_run()), help(Cli::command()));
    super::only_run().debug_assert();
    for args in [
        "run web -d --count 2",
        "run",
        "run web --cpus 0",
        "run -b x",
    ] {
        let args = || std::iter::once("kami").chain(args.split(' '));
        let alone = super::only_run().try_get_matches_from(args());
        let among = Cli::try_parse_from(args());
        match (alone, among) {
            (Ok(alone), Ok(among)) => {
                assert_eq!(format!("{:?}", Cli::of_run(alone)), format!("{among:?}"));
            }
            (alone, among) => assert_eq!(
                alone.unwrap_err().to_string(),
                among.unwrap_err().to_string()
            ),
        }
    }
}

#[test]
fn every_command_is_in_one_group_of_the_help() {
    let grouped: Vec<_> = super::GROUPS.iter().flat_map(|(_, names)| *names).collect();
    let command = Cli::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    assert!(names.eq(grouped.into_iter().copied()));
    let help = super::grouped(command).render_help().to_string();
    assert!(
        help.contains("\nObjects:\n  image       Machine images\n"),
        "{help}"
    );
    assert!(help.ends_with("Print version\n"), "{help}");
}

#[test]
fn bad_values_are_refused_with_what_is_wrong() {
    for (args, part) in [
        ("run", "<IMAGE>"),
        ("run a --cpus 0", "1..=32"),
        ("run a --cpus 33", "1..=32"),
        ("run a --memory 512", "less than a mebibyte"),
        ("run a --memory 1.0001G", "whole number of mebibytes"),
        ("run a --memory lots", "unit 'lots'"),
        ("run a --ephemeral-size 1X", "unit 'X'"),
        ("run a --timeout soon", "not a duration"),
        ("run a --console loud", "none of stdio"),
        ("run a --console file=", "none of stdio"),
        ("run a -b /dev/sdb", "/dev/sdb"),
        ("ps --output yaml", "json"),
        ("stop", "<ID>"),
        ("rm", "<ID>"),
        ("image register", "<MANIFEST>"),
        ("image import disk.raw", "--name"),
        ("dance", "dance"),
    ] {
        let message = refused(args);
        assert!(message.contains(part), "{args}: {message}");
    }
}

#[test]
fn help_of_run_documents_exit_statuses_and_the_command_line() {
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_long_help().to_string();
    assert!(help.contains("124") && help.contains("137"));
    assert!(help.contains(&crate::launch::command_line::default()));
}
