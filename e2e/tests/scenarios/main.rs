//! All scenarios, as one program: `make test-e2e ONLY=name` runs those whose name contains that.

#![allow(
    clippy::disallowed_methods,
    reason = "the rules of the controller's architecture; scenarios read the environment and spawn"
)]

mod alerts;
mod bed;
mod bounds;
mod chart;
mod clouds;
mod clouds_aws;
mod conflicts;
mod docs;
mod downtime;
mod faults;
mod folders;
mod gitops;
mod gone;
mod injector;
mod isolation;
mod leader;
mod logins;
mod metrics;
mod namespaced;
mod neighbours;
mod noisy;
mod notices;
mod notifications;
mod odd;
mod opting;
mod outages;
mod owners;
mod page;
mod process;
mod raft;
mod servers;
mod service_accounts;
mod sources;
mod status;
mod status_access;
mod stopped;
mod taken_back;
mod tenants;
mod tls;
mod tokens;
mod tryout;
mod waves;
mod ways_in;
mod windows;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Of the long scenarios, those of the first file start first.
    let files = [
        faults::scenarios(),
        alerts::scenarios(),
        bed::scenarios(),
        bounds::scenarios(),
        chart::scenarios(),
        clouds::scenarios(),
        clouds_aws::scenarios(),
        conflicts::scenarios(),
        docs::scenarios(),
        downtime::scenarios(),
        folders::scenarios(),
        gitops::scenarios(),
        gone::scenarios(),
        injector::scenarios(),
        isolation::scenarios(),
        leader::scenarios(),
        logins::scenarios(),
        metrics::scenarios(),
        namespaced::scenarios(),
        neighbours::scenarios(),
        noisy::scenarios(),
        notices::scenarios(),
        notifications::scenarios(),
        odd::scenarios(),
        opting::scenarios(),
        outages::scenarios(),
        owners::scenarios(),
        page::scenarios(),
        process::scenarios(),
        raft::scenarios(),
        servers::scenarios(),
        service_accounts::scenarios(),
        sources::scenarios(),
        status::scenarios(),
        status_access::scenarios(),
        stopped::scenarios(),
        taken_back::scenarios(),
        tenants::scenarios(),
        tls::scenarios(),
        tokens::scenarios(),
        tryout::scenarios(),
        waves::scenarios(),
        ways_in::scenarios(),
        windows::scenarios(),
    ];
    e2e::suite::main(files.into_iter().flatten().collect())
}
