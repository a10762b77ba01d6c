output "name" {
  description = "The name of the job."
  value       = var.name
}

output "region" {
  description = "Where everything is."
  value       = var.region
}

output "pipeline" {
  description = "What the job runs."
  value       = var.pipeline
}

output "bucket" {
  description = "Where state and results are, below state/NAME and output/NAME."
  value       = var.bucket
}

output "brokers" {
  description = "What clients begin with: SASL/SCRAM over TLS."
  value       = aws_msk_cluster.this.bootstrap_brokers_sasl_scram
}

output "instances" {
  description = "The hosts, that of process 0 first."
  value       = aws_instance.process[*].id
}

output "hostfile" {
  description = "Where each process listens."
  value       = local.hostfile
}

output "log_group" {
  description = "Where each process logs, in a stream of its number."
  value       = aws_cloudwatch_log_group.this.name
}
