output "region" {
  description = "Where everything is."
  value       = var.region
}

output "bucket" {
  description = "The bucket with dimension tables, configuration, state and results."
  value       = aws_s3_bucket.this.id
}

output "repository" {
  description = "The address of the image, without a tag."
  # A list, so that it may be left out where only the bucket is tested.
  value = one(aws_ecr_repository.highwater[*].repository_url)
}
