//! An echoing client for every case of the Autobahn|Testsuite's fuzzing server: `autobahn-client URL AGENT`.

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(agent), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: autobahn-client URL AGENT");
        return ExitCode::from(2);
    };
    match run_all(url.trim_end_matches('/'), &agent).await {
        Ok(cases) => {
            println!("{cases} cases");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("autobahn-client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases in order and has the report written; gives how many there were.
async fn run_all(url: &str, agent: &str) -> Result<u32, Failure> {
    let cases = case_count(url).await?;
    for case in 1..=cases {
        // Most cases break a rule on purpose: that this ends in an error is what is tested, and
        // the suite keeps the score.
        if let Err(error) = echo(&format!("{url}/runCase?case={case}&agent={agent}")).await {
            println!("case {case}: {error}");
        }
    }
    let mut socket = sockeye::connect(format!("{url}/updateReports?agent={agent}")).await?;
    while socket.recv().await?.is_some() {}
    Ok(cases)
}

async fn case_count(url: &str) -> Result<u32, Failure> {
    let mut socket = sockeye::connect(format!("{url}/getCaseCount")).await?;
    let message = socket
        .recv()
        .await?
        .ok_or("the suite closed before it told how many cases it has")?;
    let count = message
        .as_text()
        .ok_or("the suite's count of cases is not text")?
        .parse()?;
    while socket.recv().await?.is_some() {}
    Ok(count)
}

async fn echo(url: &str) -> Result<(), Failure> {
    let mut socket = sockeye::connect(url).await?;
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}
